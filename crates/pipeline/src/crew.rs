//! The crew: every worker on a thread of its own, and the interfaces that they receive from.
//!
//! A start takes effect at its end. First each worker gets what takes long, its flow cache and the
//! memory of its queue. Then the XDP programs are attached, without sockets, and each worker opens
//! its source. Once all have theirs, frames are redirected to the sockets.

use crate::capture_clock::CaptureClock;
use crate::clock::{Clock, LiveClock};
use crate::error::StartError;
use crate::hand_over::Outbox;
use crate::mailbox::{Postbox, Request, mailbox};
use crate::own_export::OwnExport;
use crate::plan::CapturePlan;
use crate::published::Published;
use crate::snapshot::WorkerBoard;
use crate::tables::Tables;
use crate::thread::{CoreList, Deaths, pin};
use crate::worker::Worker;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::sync::Arc;
use std::thread::JoinHandle;
use xdprobe_capture::xdp::{LoadedInterface, QueueMemory, XdpConfig, XdpInterface};
use xdprobe_capture::{CaptureError, CaptureFile, Interface, LiveCapture, ReadProgress, Source};
use xdprobe_flow::{CacheConfig, Meter, MeterConfig, PointRules};

/// Workers at work.
pub struct Crew {
    threads: Vec<JoinHandle<Result<(), CaptureError>>>,
    postboxes: Vec<Postbox>,
    /// Where each worker publishes what it counts.
    pub boards: Vec<WorkerBoard>,
    /// Interfaces that are captured from with AF_XDP.
    pub interfaces: Vec<Arc<XdpInterface>>,
    /// How far the capture file has been read, where it is one.
    pub progress: Option<ReadProgress>,
    /// Closed once every worker has ended.
    pub ended: Receiver<StartReport>,
}

/// Whether a worker could start; each reports once.
pub type StartReport = Result<(), StartError>;

/// What every worker of a crew has in common.
pub struct Common {
    /// How their flow caches are set up.
    pub cache: CacheConfig,
    /// Input ifIndex in the records, where it is not the interface's own.
    pub input: Option<u16>,
    /// Rules for interfaces.
    pub tables: Tables,
    /// The probe's own export.
    pub own: OwnExport,
    /// The system's time.
    pub clock: LiveClock,
    /// Threads that died.
    pub deaths: Deaths,
}

impl Crew {
    /// Starts the workers that `add` adds, each with one of `outboxes`, and returns once every one
    /// of them receives.
    ///
    /// # Errors
    ///
    /// Why one of them could not start; the others have ended then.
    pub fn start(
        common: Common,
        outboxes: Vec<Outbox>,
        cores: CoreList,
        add: impl FnOnce(&mut NewCrew) -> Result<(), StartError>,
    ) -> Result<Self, StartError> {
        let deaths = common.deaths.clone();
        let (prepared, preparations) = bounded(outboxes.len().max(1));
        let (started, reports) = bounded(outboxes.len().max(1));
        let mut new = NewCrew {
            common,
            cores,
            outboxes: outboxes.into_iter(),
            loaded: Vec::new(),
            prepared,
            started,
            crew: Self {
                threads: Vec::new(),
                postboxes: Vec::new(),
                boards: Vec::new(),
                interfaces: Vec::new(),
                progress: None,
                ended: reports,
            },
        };
        let added = add(&mut new);
        let NewCrew {
            mut crew,
            loaded,
            prepared,
            started,
            ..
        } = new;
        drop((prepared, started));
        let begun = added
            .and_then(|()| await_all(crew.threads.len(), &preparations, &deaths))
            .and_then(|()| crew.attach(loaded))
            .and_then(|()| await_all(crew.threads.len(), &crew.ended, &deaths))
            .and_then(|()| crew.start_redirecting());
        match begun {
            Ok(()) => Ok(crew),
            Err(error) => {
                crew.stop(0);
                // What the others met on their way out adds nothing.
                let _ = crew.join();
                Err(error)
            }
        }
    }

    /// Where requests to each worker are posted.
    #[must_use]
    pub fn postboxes(&self) -> &[Postbox] {
        &self.postboxes
    }

    /// Asks every worker to stop. No frame is redirected to their sockets any more; what was
    /// redirected by now is read to its end, but only before the uptime `by_ms`.
    pub fn stop(&self, by_ms: u64) {
        self.interfaces.iter().for_each(|on| on.stop_redirecting());
        for postbox in &self.postboxes {
            postbox.post_or_wait(Request::Stop(by_ms));
        }
    }

    /// Leaves workers that were asked to stop less time.
    pub fn hurry(&self, by_ms: u64) {
        for postbox in &self.postboxes {
            // One that does not look into its mailbox is reading no more.
            let _ = postbox.post(Request::Stop(by_ms));
        }
    }

    /// Waits until every worker has ended, and returns the first failure of a source.
    pub fn join(self) -> Result<(), CaptureError> {
        let ended = self.threads.into_iter().map(JoinHandle::join);
        // Deaths are noted where they happen.
        ended.filter_map(Result::ok).fold(Ok(()), Result::and)
    }

    /// Attaches the XDP programs, and gives each interface to its workers.
    fn attach(&mut self, loaded: Vec<Loaded>) -> Result<(), StartError> {
        for Loaded { interface, workers } in loaded {
            let on = Arc::new(interface.attach()?);
            tracing::info!("{on}");
            self.interfaces.push(Arc::clone(&on));
            for worker in workers {
                // A worker that has ended reported why.
                let _ = worker.send(Arc::clone(&on));
            }
        }
        Ok(())
    }

    fn start_redirecting(&self) -> Result<(), StartError> {
        self.interfaces
            .iter()
            .try_for_each(|on| on.start_redirecting().map_err(StartError::from))
    }
}

/// Waits until `count` workers have reported that they are ready, or one that it cannot be, or a
/// thread has died.
fn await_all(
    count: usize,
    reports: &Receiver<StartReport>,
    deaths: &Deaths,
) -> Result<(), StartError> {
    (0..count).try_for_each(|_| {
        select! {
            recv(reports) -> report => report.unwrap_or(Err(StartError::Died)),
            recv(deaths.bell()) -> _ => Err(StartError::Died),
        }
    })
}

/// A crew that is being started.
pub struct NewCrew {
    common: Common,
    cores: CoreList,
    outboxes: std::vec::IntoIter<Outbox>,
    loaded: Vec<Loaded>,
    /// Where each worker reports that it has its flow cache, and the memory of its queue.
    prepared: Sender<StartReport>,
    /// Where each worker reports that it has its source; it has a copy until it ends.
    started: Sender<StartReport>,
    crew: Crew,
}

/// An interface whose XDP program is loaded.
struct Loaded {
    interface: LoadedInterface,
    /// Its workers, which wait until the program is attached.
    workers: Vec<Sender<Arc<XdpInterface>>>,
}

/// How a worker gets its source, on its own thread.
pub struct Opening<Prepare, Attached, Open> {
    /// Allocates what takes long.
    prepare: Prepare,
    /// Where what the source is opened on arrives; closed if another worker cannot start.
    attached: Receiver<Attached>,
    /// Opens the source with both.
    open: Open,
}

/// Where a worker receives from.
pub struct Post {
    /// The interface, or `file`.
    pub interface: String,
    /// The queue, where it has one to itself.
    pub queue: Option<u32>,
    /// The core that it is pinned to.
    pub core: Option<usize>,
    /// Rules for its packets.
    pub rules: Arc<PointRules>,
}

impl<Open> Opening<fn() -> Result<(), CaptureError>, (), Open> {
    /// An opening that takes no preparation and waits for nothing.
    pub fn at_once(open: Open) -> Self {
        let (attach, attached) = bounded(1);
        attach.send(()).expect("there is room for one");
        Self {
            prepare: || Ok(()),
            attached,
            open,
        }
    }
}

impl NewCrew {
    /// Starts the workers of one interface or file.
    ///
    /// # Errors
    ///
    /// Why it cannot be captured from.
    pub fn add(&mut self, capture: CapturePlan) -> Result<(), StartError> {
        match capture {
            CapturePlan::File {
                path,
                filter,
                sampling,
            } => {
                let file = CaptureFile::open(&path, filter.as_ref())?.sampled(sampling);
                self.crew.progress = Some(file.progress());
                let input = self.common.input.unwrap_or(0);
                let post = Post {
                    interface: "file".to_owned(),
                    queue: None,
                    core: None,
                    rules: self.common.tables.add_interface("file", input)?,
                };
                self.spawn(
                    post,
                    CaptureClock::default(),
                    Opening::at_once(|(), ()| Ok(file)),
                )
            }
            CapturePlan::Pcap {
                interface,
                filter,
                sampling,
            } => {
                let post = Post {
                    rules: self.rules_of(&interface)?,
                    core: self.cores.next_if_named(),
                    queue: None,
                    interface: interface.name.clone(),
                };
                let clock = self.common.clock;
                // On the worker's thread, once it has its flow cache: the kernel's buffer fills
                // from here on.
                let open = move |(), ()| {
                    let name = interface.name.clone();
                    let opened = LiveCapture::open(interface, filter.as_ref(), sampling)?;
                    tracing::info!("{name}: captured through libpcap");
                    Ok(opened)
                };
                self.spawn(post, clock, Opening::at_once(open))
            }
            CapturePlan::Xdp {
                interface,
                config,
                queues,
            } => {
                let rules = self.rules_of(&interface)?;
                let loaded = LoadedInterface::load(interface.clone(), config.clone())?;
                let mut workers = Vec::new();
                for queue in queues {
                    workers.push(self.spawn_on_queue(&interface, &config, queue, &rules)?);
                }
                self.loaded.push(Loaded {
                    interface: loaded,
                    workers,
                });
                Ok(())
            }
        }
    }

    /// Starts the worker of a queue; returns where it waits for the interface.
    fn spawn_on_queue(
        &mut self,
        interface: &Interface,
        config: &XdpConfig,
        queue: u32,
        rules: &Arc<PointRules>,
    ) -> Result<Sender<Arc<XdpInterface>>, StartError> {
        let post = Post {
            interface: interface.name.clone(),
            queue: Some(queue),
            core: self.cores.next(),
            rules: Arc::clone(rules),
        };
        let (clock, label) = (self.common.clock, post.label());
        let (attach, attached) = bounded(1);
        let (interface, config) = (interface.clone(), config.clone());
        let opening = Opening {
            prepare: move || QueueMemory::reserve(&interface, &config),
            attached,
            open: move |memory, on: Arc<XdpInterface>| {
                let opened = on.open_queue(queue, memory)?;
                tracing::info!("{label}: {}", opened.report());
                Ok(opened)
            },
        };
        self.spawn(post, clock, opening)?;
        Ok(attach)
    }

    /// The rules for packets of an interface.
    fn rules_of(&self, interface: &Interface) -> Result<Arc<PointRules>, StartError> {
        let input = self.common.input.unwrap_or_else(|| {
            u16::try_from(interface.index).unwrap_or_else(|_| {
                let Interface { name, index, .. } = interface;
                tracing::warn!(
                    "{name}: ifIndex {index} does not fit NetFlow v5; records say 0 \
                     (--input sets another)"
                );
                0
            })
        });
        Ok(self.common.tables.add_interface(&interface.name, input)?)
    }

    /// Starts one worker; it opens its source on its own thread, once it is pinned and has its
    /// flow cache.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn spawn<S: Source + 'static, C: Clock + 'static, Memory, Attached: Send + 'static>(
        &mut self,
        post: Post,
        clock: C,
        opening: Opening<
            impl FnOnce() -> Result<Memory, CaptureError> + Send + 'static,
            Attached,
            impl FnOnce(Memory, Attached) -> Result<S, CaptureError> + Send + 'static,
        >,
    ) -> Result<(), StartError> {
        let outbox = self
            .outboxes
            .next()
            .expect("there is an outbox for each worker of the plan");
        let label = post.label();
        let (postbox, mailbox) = mailbox();
        self.common.tables.subscribe(&post.interface, &postbox);
        let own = if C::REGIME.sees_own_export() {
            self.common.own.subscribe(postbox.clone())
        } else {
            Arc::default()
        };
        let config = MeterConfig {
            cache: self.common.cache,
            points: post.rules,
            own,
        };
        let published = Arc::new(Published::default());
        self.crew.boards.push(WorkerBoard {
            interface: post.interface,
            queue: post.queue,
            flows_max: config.cache.flows_max as u64,
            published: Arc::clone(&published),
        });
        self.crew.postboxes.push(postbox);
        let (prepared, started) = (self.prepared.clone(), self.started.clone());
        let name = label.clone();
        let thread = self.common.deaths.spawn(&name, move || {
            let Opening {
                prepare,
                attached,
                open,
            } = opening;
            let ready = post
                .core
                .map_or(Ok(()), |core| pin(&label, core))
                .and_then(|()| make_meter(&config, &label))
                .and_then(|meter| Ok((prepare()?, meter)));
            let Some((memory, meter)) = report(&prepared, ready) else {
                return Ok(());
            };
            drop(prepared);
            let Ok(attached) = attached.recv() else {
                // Another worker cannot start.
                return Ok(());
            };
            let opened = open(memory, attached).map_err(StartError::from);
            let Some(source) = report(&started, opened) else {
                return Ok(());
            };
            let worked = Worker::new(source, clock, meter, outbox, mailbox, published).run();
            if let (Err(error), true) = (&worked, C::REGIME.is_live()) {
                tracing::error!("{label}: {error}");
            }
            worked
        })?;
        self.crew.threads.push(thread);
        Ok(())
    }
}

/// Reports whether a worker got what it needs; returns it if it did.
fn report<T>(to: &Sender<StartReport>, result: Result<T, StartError>) -> Option<T> {
    let (report, got) = match result {
        Ok(got) => (Ok(()), Some(got)),
        Err(error) => (Err(error), None),
    };
    // There is room for a report of each worker, unless the start has failed.
    let _ = to.send(report);
    got
}

fn make_meter(config: &MeterConfig, label: &str) -> Result<Meter, StartError> {
    let meter = Meter::new(config).map_err(|error| StartError::Memory {
        flows_max: config.cache.flows_max,
        error,
    })?;
    tracing::debug!(
        "{label}: {} places for flows on {}",
        meter.capacity(),
        meter.page_size()
    );
    Ok(meter)
}

impl Post {
    fn label(&self) -> String {
        let Self {
            interface, queue, ..
        } = self;
        match queue {
            Some(queue) => format!("{interface}/{queue}"),
            None => interface.clone(),
        }
    }
}
