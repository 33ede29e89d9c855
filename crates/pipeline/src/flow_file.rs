//! A flow-tools file as an outlet: records go into it as they come, and it has its name once it is
//! complete.

use std::io;
use std::path::Path;
use xdprobe_collect::{FlowFileWriter, StoredRecord, WriterOptions};
use xdprobe_export::netflow::Engine;
use xdprobe_export::netflow::wire::uptime_on_the_wire;
use xdprobe_export::{
    CollectorCounters, DetailedRecord, FixedFormat, LossReason, Moment, Outlet, SendErrorKind,
    Tally,
};

/// A flow-tools file under construction.
pub struct FlowFile {
    /// None once it is finished.
    writer: Option<FlowFileWriter>,
    format: FixedFormat,
    /// UTC seconds of the last records; none before the first.
    last_s: Option<u32>,
    counters: CollectorCounters,
}

impl FlowFile {
    /// Begins the file at `path`, with records of the version and engine of `format`.
    ///
    /// # Errors
    ///
    /// Those of creating it.
    pub fn create(path: &Path, format: FixedFormat) -> io::Result<Self> {
        let options = WriterOptions {
            version: format.version,
            ..WriterOptions::plain_v5(0)
        };
        Ok(Self {
            writer: Some(FlowFileWriter::create(path, &options)?),
            format,
            last_s: None,
            counters: CollectorCounters::default(),
        })
    }

    fn write(&mut self, record: &DetailedRecord, now: Moment) -> io::Result<()> {
        let writer = self
            .writer
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is finished"))?;
        let stored = stored(record, now, self.format.engine);
        if self.last_s.replace(stored.unix_s).is_none() {
            writer.set_capture_start(stored.unix_s);
        }
        writer.push(&stored)
    }
}

impl Outlet for FlowFile {
    fn push(&mut self, records: &[DetailedRecord], now: Moment) {
        for record in records {
            let mut tally = Tally::default();
            tally.add_record(&record.flow);
            if self.write(record, now).is_ok() {
                self.counters.sent += tally;
                self.counters.exported += tally;
                self.counters.octets += StoredRecord::encoded_octets(self.format.version) as u64;
            } else {
                self.counters.lost[LossReason::Send as usize] += tally;
                self.counters.errors[SendErrorKind::Other as usize] += 1;
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.writer.take() {
            Some(writer) => writer.finish(self.last_s.unwrap_or(0)).map(drop),
            None => Ok(()),
        }
    }

    fn counters(&self) -> CollectorCounters {
        self.counters
    }
}

/// A record as the file has it, sent at `now`.
fn stored(record: &DetailedRecord, now: Moment, engine: Engine) -> StoredRecord {
    const NS_PER_S: u64 = 1_000_000_000;
    let DetailedRecord { flow, details } = record;
    let narrow = |count| u32::try_from(count).expect("the plan caps counters at 2^32 - 1");
    StoredRecord {
        // 32 bits of seconds last until 2106, and ns below a second fit as well.
        unix_s: u32::try_from(now.unix_ns / NS_PER_S).unwrap_or(u32::MAX),
        unix_ns: u32::try_from(now.unix_ns % NS_PER_S).expect("ns below a second have 30 bits"),
        sys_uptime_ms: uptime_on_the_wire(now.uptime_ms),
        source: flow.key.source,
        destination: flow.key.destination,
        next_hop: details.destination.next_hop.into(),
        input: details.interfaces.input,
        output: details.interfaces.output,
        packets: narrow(flow.volume.packets),
        octets: narrow(flow.volume.octets),
        first_ms: uptime_on_the_wire(flow.first_ms),
        last_ms: uptime_on_the_wire(flow.last_ms),
        source_port: flow.key.source_port,
        destination_port: flow.key.destination_port,
        protocol: flow.key.protocol,
        tos: flow.key.tos,
        tcp_flags: flow.tcp_flags,
        engine_type: engine.r#type,
        engine_id: engine.id,
        source_mask: details.source.mask,
        destination_mask: details.destination.mask,
        source_as: details.source.r#as,
        destination_as: details.destination.r#as,
        ..StoredRecord::default()
    }
}
