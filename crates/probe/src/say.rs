//! Lines on standard error.
//!
//! A thread of their own writes them, so that nothing waits for who reads them, and nothing ends
//! where standard error is closed or full. A line for which there is no room, or that cannot be
//! written, is left out.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::cell::Cell;
use std::io::{self, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

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

thread_local! {
    /// Whether this thread is the one that writes.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Starts the thread, which calls `report_left_out` with the number of lines for which there was no
/// room, once there is again. Without it, lines are written where they are put.
pub fn start(report_left_out: fn(u64)) {
    let (lines, arrived) = bounded(LINES_MAX);
    let started = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write(&arrived, report_left_out));
    if started.is_ok() {
        let _ = LINES.set(lines);
    }
}

/// Puts text that has its own line ends behind all that was put before.
pub fn put(text: Vec<u8>) {
    let Some(lines) = LINES.get().filter(|_| !WRITES.get()) else {
        // There is no other place to report an error to.
        let _ = stderr().write_all(&text);
        return;
    };
    if lines.try_send(Message::Line(text)).is_err() {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until what was put is written, but not for long.
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
fn write(arrived: &Receiver<Message>, report_left_out: fn(u64)) {
    WRITES.set(true);
    for message in arrived {
        match message {
            Message::Line(line) => put(line),
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            report_left_out(left_out);
        }
    }
}
