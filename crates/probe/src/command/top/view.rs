//! What a person chose to see, and what the keys do.

use crate::control::{FlowQuery, TopQuery, of_parameters, to_parameters};
use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A page.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Page {
    /// Rates, and the beginning of all other pages
    #[default]
    Overview,
    /// Losses by place, and packets that are not metered on purpose
    Losses,
    /// Each queue and its flow cache
    Queues,
    /// Each collector
    Collectors,
    /// The heaviest flows, sources, pairs, ports or protocols
    Heaviest,
}

/// What is seen.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Which page.
    pub page: Page,
    /// Which flows, what they are added up by, and how that is sorted.
    pub query: TopQuery,
    /// The screen stays as it is.
    pub is_frozen: bool,
    /// Rows above the first one that is seen, in the page's table.
    pub offset: usize,
    /// The filter that is being typed.
    pub prompt: Option<Prompt>,
}

/// A filter that is being typed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prompt {
    /// What was typed.
    pub text: String,
    /// What is wrong with it, once it was entered.
    pub error: Option<String>,
}

/// What a key asks for, beyond what is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// Another query.
    Query,
    /// The end.
    Quit,
}

/// Characters of a filter.
const PROMPT_MAX: usize = 200;
/// Rows that PageUp and PageDown move by.
const LEAP: usize = 10;

impl View {
    /// Does what a key says. `rows` are those of the page's table.
    pub fn on_key(&mut self, key: KeyEvent, rows: usize) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Asked::Quit,
                KeyCode::Char('u') if self.prompt.is_some() => {
                    self.prompt = Some(Prompt::default());
                }
                _ => (),
            }
            return Asked::Nothing;
        }
        if let Some(prompt) = self.prompt.take() {
            return self.on_key_in_prompt(prompt, key.code);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Asked::Quit,
            KeyCode::Char(' ') => self.is_frozen = !self.is_frozen,
            KeyCode::Char('s') => return self.ask(|query| query.by = next(query.by)),
            KeyCode::Char('o') => return self.ask(|query| query.over = next(query.over)),
            KeyCode::Char('f' | '/') => {
                self.prompt = Some(Prompt {
                    text: words(&self.query.flows),
                    error: None,
                });
            }
            KeyCode::Char(digit @ '1'..='5') => {
                self.turn_to(Page::value_variants()[digit as usize - '1' as usize]);
            }
            KeyCode::Tab | KeyCode::Right => self.turn_to(next(self.page)),
            KeyCode::BackTab | KeyCode::Left => self.turn_to(previous(self.page)),
            KeyCode::Down => self.scroll(1, rows),
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.scroll(LEAP, rows),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(LEAP),
            KeyCode::Home => self.offset = 0,
            _ => (),
        }
        Asked::Nothing
    }

    fn on_key_in_prompt(&mut self, mut prompt: Prompt, key: KeyCode) -> Asked {
        prompt.error = None;
        match key {
            KeyCode::Esc => return Asked::Nothing,
            KeyCode::Enter => match flows_of(&prompt.text) {
                Ok(flows) => return self.ask(|query| query.flows = flows),
                Err(error) => prompt.error = Some(error),
            },
            KeyCode::Backspace => {
                prompt.text.pop();
            }
            KeyCode::Char(typed) if prompt.text.chars().count() < PROMPT_MAX => {
                prompt.text.push(typed);
            }
            _ => (),
        }
        self.prompt = Some(prompt);
        Asked::Nothing
    }

    /// Changes the query. Its answer is not that of the frozen moment, so the screen moves again.
    fn ask(&mut self, change: impl FnOnce(&mut TopQuery)) -> Asked {
        change(&mut self.query);
        self.is_frozen = false;
        self.offset = 0;
        Asked::Query
    }

    fn turn_to(&mut self, page: Page) {
        self.page = page;
        self.offset = 0;
    }

    fn scroll(&mut self, by: usize, rows: usize) {
        self.offset = (self.offset + by).min(rows.saturating_sub(1));
    }
}

impl Page {
    /// Whether the heaviest flows are on it.
    pub fn has_heaviest(self) -> bool {
        matches!(self, Self::Overview | Self::Heaviest)
    }
}

/// The name of a value, as the command line has it.
pub fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Conditions as they are typed: `port=53 protocol=17`.
pub fn words(flows: &FlowQuery) -> String {
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(&to_parameters(flows)).unwrap_or_default();
    let words = pairs.iter().map(|(name, value)| format!("{name}={value}"));
    words.collect::<Vec<_>>().join(" ")
}

fn flows_of(words: &str) -> Result<FlowQuery, String> {
    let pair = |word: &'_ str| {
        let pair = word.split_once('=');
        let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| format!("'{word}': expected NAME=VALUE, as in port=53 protocol=udp"))
    };
    let pairs: Vec<_> = words
        .split_whitespace()
        .map(pair)
        .collect::<Result<_, _>>()?;
    of_parameters(&to_parameters(&pairs))
}

fn next<T: ValueEnum + PartialEq>(value: T) -> T {
    beside(value, 1)
}

fn previous<T: ValueEnum + PartialEq>(value: T) -> T {
    beside(value, T::value_variants().len() - 1)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "values are small and are replaced"
)]
fn beside<T: ValueEnum + PartialEq>(value: T, steps: usize) -> T {
    let all = T::value_variants();
    let at = all.iter().position(|one| *one == value).unwrap_or(0);
    all[(at + steps) % all.len()].clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::By;

    fn press(view: &mut View, keys: &[KeyCode]) -> Asked {
        let keys = keys.iter().map(|code| KeyEvent::from(*code));
        keys.map(|key| view.on_key(key, 5))
            .last()
            .unwrap_or(Asked::Nothing)
    }

    fn typed(text: &str) -> Vec<KeyCode> {
        text.chars().map(KeyCode::Char).collect()
    }

    #[test]
    fn keys_turn_the_pages() {
        let mut view = View::default();
        for (key, expected) in [
            (KeyCode::Tab, Page::Losses),
            (KeyCode::Char('5'), Page::Heaviest),
            (KeyCode::Tab, Page::Overview),
            (KeyCode::BackTab, Page::Heaviest),
            (KeyCode::Char('3'), Page::Queues),
            (KeyCode::Char('9'), Page::Queues),
        ] {
            assert_eq!(press(&mut view, &[key]), Asked::Nothing);
            assert_eq!(view.page, expected, "{key}");
        }
    }

    #[test]
    fn sorting_and_adding_up_ask_the_probe_again_and_end_a_freeze() {
        let mut view = View::default();
        assert_eq!(press(&mut view, &typed(" ")), Asked::Nothing);
        assert!(view.is_frozen);
        assert_eq!(press(&mut view, &typed("s")), Asked::Query);
        assert_eq!((view.query.by, view.is_frozen), (By::Packets, false));
        assert_eq!(press(&mut view, &typed("ss")), Asked::Query);
        assert_eq!(view.query.by, By::Octets);
        assert_eq!(press(&mut view, &typed("oo")), Asked::Query);
        assert_eq!(name(&view.query.over), "pair");
        assert_eq!(press(&mut view, &typed("  ")), Asked::Nothing);
        assert!(!view.is_frozen);
    }

    #[test]
    fn a_filter_is_typed_in_the_words_of_the_options() {
        let mut view = View::default();
        let mut keys = typed("fport=5 q");
        keys.extend([KeyCode::Backspace; 2]);
        keys.extend(typed("3 prefix=10.0.0.0/8"));
        assert_eq!(press(&mut view, &keys), Asked::Nothing);
        assert_eq!(press(&mut view, &[KeyCode::Enter]), Asked::Query);
        assert_eq!(words(&view.query.flows), "prefix=10.0.0.0/8 port=53");
        assert_eq!(view.prompt, None);
        press(&mut view, &typed("f"));
        let text = view.prompt.as_ref().map(|prompt| &prompt.text[..]);
        assert_eq!(text, Some("prefix=10.0.0.0/8 port=53"));
        assert_eq!(press(&mut view, &[KeyCode::Esc]), Asked::Nothing);
        assert_eq!(view.query.flows.port, Some(53));
        press(&mut view, &typed("/"));
        let control_u = KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL);
        assert_eq!(view.on_key(control_u, 5), Asked::Nothing);
        assert_eq!(press(&mut view, &[KeyCode::Enter]), Asked::Query);
        assert_eq!(view.query.flows, FlowQuery::default());
    }

    #[test]
    fn a_filter_that_is_wrong_stays_with_what_is_expected() {
        for (text, expected) in [
            ("port", "expected NAME=VALUE"),
            ("port=http", "invalid value 'http' for 'port <N>'"),
            ("colour=red", "unexpected argument 'colour'"),
            ("port=1 port=2", "cannot be used multiple times"),
        ] {
            let mut view = View::default();
            press(&mut view, &typed("f"));
            press(&mut view, &typed(text));
            assert_eq!(press(&mut view, &[KeyCode::Enter]), Asked::Nothing);
            let prompt = view.prompt.clone().unwrap();
            assert_eq!(prompt.text, text);
            let error = prompt.error.unwrap();
            assert!(error.contains(expected), "{error}");
            press(&mut view, &[KeyCode::Backspace]);
            assert_eq!(view.prompt.unwrap().error, None);
        }
    }

    #[test]
    fn a_table_is_scrolled_no_further_than_its_last_row() {
        let mut view = View::default();
        press(&mut view, &[KeyCode::Up]);
        assert_eq!(view.offset, 0);
        press(&mut view, &[KeyCode::Down, KeyCode::Down]);
        assert_eq!(view.offset, 2);
        press(&mut view, &[KeyCode::PageDown]);
        assert_eq!(view.offset, 4);
        press(&mut view, &[KeyCode::Tab]);
        assert_eq!(view.offset, 0);
    }

    #[test]
    fn keys_that_quit() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for key in [KeyCode::Char('q').into(), KeyCode::Esc.into(), control_c] {
            assert_eq!(View::default().on_key(key, 5), Asked::Quit);
        }
        let mut view = View::default();
        press(&mut view, &typed("f"));
        assert_eq!(view.on_key(control_c, 5), Asked::Quit);
    }
}
