//! The full screen: what arrives changes it, and it is drawn again.
//!
//! Only cells that changed are written to the terminal. Everything that arrived while it took them
//! is seen before the screen is drawn again, so a slow line is behind by one screen at the most.

use super::draw::{Known, draw, row_count};
use super::grid::Look;
use super::view::{Asked, View};
use super::watch::{Arrival, Watch};
use anyhow::Context;
use crossbeam_channel::{after, never, select};
use nix::libc::EIO;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::Event;
use signal_hook::consts::SIGHUP;
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::time::Duration;

/// Beyond the interval, the time without a sample after which the screen says so.
const SILENCE: Duration = Duration::from_secs(3);

/// Why the screen ends.
enum End {
    Quit,
    Signal(i32),
}

/// Shows the screen until a key or a signal ends it. The terminal is then as it was before; a panic
/// restores it too.
///
/// # Errors
///
/// If the terminal cannot be used, or the probe has ended.
pub fn show(
    known: Known,
    view: View,
    look: Look,
    watch: &Watch,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut screen = Screen {
        known,
        frozen: None,
        view,
        questions: Questions::default(),
        watch,
    };
    let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
    let mut terminal = terminal.context("the terminal cannot be set up")?;
    let end = screen.run(&mut terminal, look, interval);
    if terminal.show_cursor().is_ok() {
        // What fails now fails because there is no terminal any more.
        let _ = ratatui::try_restore();
    } else {
        // Its drop would print this error where nothing can be printed.
        std::mem::forget(terminal);
    }
    match end? {
        End::Quit => Ok(()),
        End::Signal(signal) => Ok(emulate_default_handler(signal)?),
    }
}

struct Screen<'a> {
    known: Known,
    /// What is shown instead while the screen is frozen.
    frozen: Option<Box<Known>>,
    view: View,
    questions: Questions,
    watch: &'a Watch,
}

/// Which question about the heaviest flows is under way: one at a time, and after its answer none
/// for as long as that took, since each passes over every resident flow.
#[derive(Default)]
struct Questions {
    /// Samples that came since it was asked.
    since_asked: Option<u32>,
    /// Samples to wait for before the next.
    rest: u32,
    /// Its answer is not that to what is asked now.
    is_outdated: bool,
}

impl Screen<'_> {
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        look: Look,
        interval: Duration,
    ) -> anyhow::Result<End> {
        let arrivals = self.watch.arrivals();
        let mut silence = after(interval + SILENCE);
        self.ask();
        loop {
            let shown = self.frozen.as_deref().unwrap_or(&self.known);
            let drawn = terminal.draw(|frame| draw(frame, shown, &self.view, look));
            if let Err(error) = drawn {
                return end_of_terminal(error);
            }
            select! {
                recv(arrivals) -> arrival => {
                    let first = arrival.context("no thread is left")?;
                    for arrival in [first].into_iter().chain(arrivals.try_iter()) {
                        if matches!(arrival, Arrival::Sample(_)) {
                            silence = after(interval + SILENCE);
                        }
                        if let Some(end) = self.take(arrival)? {
                            return Ok(end);
                        }
                    }
                }
                recv(silence) -> _ => {
                    self.known.is_silent = true;
                    silence = never();
                }
            }
        }
    }

    fn take(&mut self, arrival: Arrival) -> anyhow::Result<Option<End>> {
        match arrival {
            Arrival::Sample(sample) => {
                self.known.is_silent = false;
                self.known.history.add(*sample);
                self.questions.on_sample();
                self.ask();
            }
            Arrival::Top(top) => {
                if self.questions.on_answer() {
                    self.known.top = Some(top);
                } else {
                    self.ask();
                }
            }
            Arrival::Terminal(Event::Key(key)) => {
                let shown = self.frozen.as_deref().unwrap_or(&self.known);
                let rows = row_count(shown, self.view.page);
                match self.view.on_key(key, rows) {
                    Asked::Nothing => (),
                    Asked::Quit => return Ok(Some(End::Quit)),
                    Asked::Query => {
                        self.known.top = None;
                        self.questions.on_change();
                    }
                }
                if !self.view.is_frozen {
                    self.frozen = None;
                } else if self.frozen.is_none() {
                    self.frozen = Some(Box::new(self.known.clone()));
                }
                self.ask();
            }
            Arrival::Terminal(_) => (),
            Arrival::NoTerminal(error) => return end_of_terminal(error).map(Some),
            Arrival::Signal(signal) => return Ok(Some(End::Signal(signal))),
            Arrival::Failure(error) => return Err(error),
        }
        Ok(None)
    }

    /// Asks for the heaviest flows, if they are on the page and it is time.
    fn ask(&mut self) {
        if self.view.page.has_heaviest() && self.questions.may_ask() {
            self.watch.ask(&self.view.query);
        }
    }
}

/// What an error of the terminal means: EIO is that it hung up, of which the signal may come later.
fn end_of_terminal(error: io::Error) -> anyhow::Result<End> {
    match error.raw_os_error() {
        Some(EIO) => Ok(End::Signal(SIGHUP)),
        _ => Err(error).context("the terminal"),
    }
}

impl Questions {
    fn on_sample(&mut self) {
        match &mut self.since_asked {
            Some(samples) => *samples = samples.saturating_add(1),
            None => self.rest = self.rest.saturating_sub(1),
        }
    }

    /// Whether the answer is to what is asked now.
    fn on_answer(&mut self) -> bool {
        self.rest = self.since_asked.take().unwrap_or(0).max(1);
        let is_outdated = std::mem::take(&mut self.is_outdated);
        if is_outdated {
            self.rest = 0;
        }
        !is_outdated
    }

    fn on_change(&mut self) {
        self.is_outdated = self.since_asked.is_some();
        self.rest = 0;
    }

    fn may_ask(&mut self) -> bool {
        let may = self.since_asked.is_none() && self.rest == 0;
        if may {
            self.since_asked = Some(0);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use xdprobe_lab::requirements::are_met;
    use xdprobe_lab::terminal::{self, Terminal};

    const PANICS: &str = "command::top::screen::tests::panics_with_a_full_screen";

    #[test]
    #[should_panic]
    #[ignore = "run in a terminal, by the next test"]
    fn panics_with_a_full_screen() {
        let mut terminal = ratatui::try_init().unwrap();
        terminal.draw(|_| ()).unwrap();
        panic!("with a full screen");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        if !are_met(&terminal::TOOLS) {
            return;
        }
        let this = std::env::current_exe().unwrap();
        let program = format!(
            "RUST_BACKTRACE=0 {} --ignored --exact --nocapture {PANICS}",
            this.display()
        );
        let terminal = Terminal::start(|tmux| Command::new(tmux), (80, 24), &program).unwrap();
        let left = terminal.wait().unwrap();
        assert!(
            left.screen.contains("with a full screen"),
            "{}",
            left.screen
        );
        assert!(left.is_restored, "{}", left.screen);
    }

    #[test]
    fn the_heaviest_flows_are_asked_for_once_a_sample_and_less_if_that_takes_longer() {
        let mut questions = Questions::default();
        assert!(questions.may_ask());
        assert!(!questions.may_ask());
        assert!(questions.on_answer());
        assert!(!questions.may_ask(), "there is no new sample yet");
        questions.on_sample();
        assert!(questions.may_ask());
        (0..3).for_each(|_| questions.on_sample());
        assert!(questions.on_answer());
        for _ in 0..3 {
            assert!(!questions.may_ask());
            questions.on_sample();
        }
        assert!(questions.may_ask());
    }

    #[test]
    fn the_answer_to_an_earlier_query_is_not_shown() {
        let mut questions = Questions::default();
        assert!(questions.may_ask());
        questions.on_change();
        assert!(!questions.may_ask(), "one is under way");
        assert!(!questions.on_answer());
        assert!(questions.may_ask());
        assert!(questions.on_answer());
        questions.on_change();
        assert!(questions.may_ask(), "a change does not wait");
    }
}
