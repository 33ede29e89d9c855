//! Lines for people on standard error.
//!
//! A thread of their own writes them, so that nothing waits for who reads them, and nothing ends
//! where standard error is closed or full. A line for which there is no room, or that cannot be
//! written, is left out.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{panic, thread};

/// What the thread gets.
enum Message {
    /// A line, with its end.
    Line(Vec<u8>),
    /// Reports that all lines before it were written.
    Flush(Sender<()>),
}

/// Where lines go; none before [`start`].
static LINES: OnceLock<Sender<Message>> = OnceLock::new();
/// Lines for which there was no room, since the last that was written.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// Lines that wait at the most.
const LINES_MAX: usize = 1_024;
/// How long the end of the process waits for lines that are not written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Starts the thread. Without it, lines are written where they are said. The lines of a panic are
/// written as all others.
pub fn start() {
    let (lines, arrived) = bounded(LINES_MAX);
    let started = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write(&arrived));
    if started.is_ok() {
        let _ = LINES.set(lines);
    }
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        say(format_args!("thread {name} {panic}"));
        // With RUST_BACKTRACE only.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            say(backtrace);
        }
    }));
}

/// Says a line, behind `xdprobe: `.
pub fn say(line: impl Display) {
    put(format!("xdprobe: {line}\n").into_bytes());
}

/// Says text that has its own line ends.
pub fn put(text: Vec<u8>) {
    let Some(lines) = LINES.get() else {
        let _ = stderr().write_all(&text);
        return;
    };
    if lines.try_send(Message::Line(text)).is_err() {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until what was said is written, but not for long.
pub fn flush() {
    let (done, written) = bounded(1);
    if let Some(lines) = LINES.get()
        && lines.send_timeout(Message::Flush(done), FLUSH_MAX).is_ok()
    {
        let _ = written.recv_timeout(FLUSH_MAX);
    }
}

/// What the log library writes its lines to.
pub struct Log;

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        put(octets.to_vec());
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until the process ends.
fn write(arrived: &Receiver<Message>) {
    for message in arrived {
        match message {
            Message::Line(line) => {
                let _ = stderr().write_all(&line);
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let text = format!("xdprobe: {left_out} lines are left out here\n");
            let _ = stderr().write_all(text.as_bytes());
        }
    }
}
