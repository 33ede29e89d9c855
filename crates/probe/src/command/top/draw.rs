//! The screen, as lines of text.
//!
//! Every page is a list of lines that fit into a width, and into a height where there is one. The
//! last line of the screen names the keys, or takes a filter.

use super::grid::{Column, Look, Row, grid, percent, short, short_count};
use super::history::{History, TABLE_WINDOW_S, WINDOWS_S};
use super::sample::{Collector, Sample};
use super::view::{Page, Prompt, View, name, words};
use crate::control::{By, InterfaceNames, QueueLine, Sum, Top};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span, Text};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of a probe.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its control socket.
    pub socket: String,
    /// What it counted.
    pub history: History,
    /// Its heaviest flows, or why it does not say them; none before its first answer.
    pub top: Option<Result<Top, String>>,
    /// It does not answer.
    pub is_silent: bool,
}

const RATES: [Column; 5] = [
    Column("Per second", 14, 0),
    Column("2 s", 7, 0),
    Column("10 s", 7, 0),
    Column("40 s", 7, 0),
    Column("Total", 14, 55),
];
const QUEUES: [Column; 9] = [
    Column("Queue", 6, 0),
    Column("State", 8, 0),
    Column("Packets/s", 9, 0),
    Column("Lost/s", 6, 0),
    Column("Lost", 8, 60),
    Column("Flows", 6, 60),
    Column("Full %", 6, 50),
    Column("Evicted/s", 9, 75),
    Column("Busy %", 6, 75),
];
const COLLECTORS: [Column; 8] = [
    Column("Collector", 9, 0),
    Column("State", 11, 0),
    Column("Records/s", 9, 50),
    Column("Sent", 7, 60),
    Column("Lost/s", 6, 80),
    Column("Lost", 6, 0),
    Column("Waiting", 7, 70),
    Column("Refusals", 8, 90),
];
const HEAVIEST: [Column; 5] = [
    Column("", 9, 0),
    Column("Flows", 7, 60),
    Column("Packets", 7, 50),
    Column("Octets", 7, 0),
    Column("Share %", 7, 0),
];
/// Lines of the overview without losses by place: head and six rates, caches, and two tables of
/// which each has one row.
const OVERVIEW_LEAST: usize = 13;
/// Rows of a table that is not the page's own.
const ROWS_ASIDE: usize = 3;

/// Draws the screen.
pub fn draw(frame: &mut Frame, known: &Known, view: &View, look: Look) {
    let [page, last] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let lines = lines(
        known,
        view,
        look,
        page.width.into(),
        Some(page.height.into()),
    );
    frame.render_widget(Text::from(lines), page);
    let width = usize::from(last.width);
    match &view.prompt {
        None => {
            let keys = format!("{:<width$}", keys(view.page, width));
            frame.render_widget(Line::from(keys).reversed(), last);
        }
        Some(prompt) => {
            let (line, cursor) = prompt_line(prompt, width, look);
            frame.render_widget(line, last);
            let column = last.x.saturating_add(cursor);
            if column < last.right() {
                frame.set_cursor_position((column, last.y));
            }
        }
    }
}

/// The lines of a page, cut to a height if one is given.
pub fn lines(
    known: &Known,
    view: &View,
    look: Look,
    width: usize,
    height: Option<usize>,
) -> Vec<Line<'static>> {
    let mut lines = vec![title(known, view)];
    let left = height.map(|height| height.saturating_sub(1));
    match view.page {
        Page::Overview => lines.extend(overview(known, view, look, width, left)),
        Page::Losses => lines.extend(scrolled(
            grid(look, &RATES, &losses(&known.history), width),
            view.offset,
        )),
        Page::Queues => lines.extend(scrolled(queues(known, look, width), view.offset)),
        Page::Collectors => lines.extend(scrolled(collectors(known, look, width), view.offset)),
        Page::Heaviest => lines.extend(heaviest(known, view, look, width)),
    }
    lines.truncate(height.unwrap_or(usize::MAX));
    lines
}

/// Rows of the table that a page scrolls.
pub fn row_count(known: &Known, page: Page) -> usize {
    match page {
        Page::Losses => losses(&known.history).len(),
        Page::Queues => known.history.now().queues.queues.len(),
        Page::Collectors => known.history.now().ledger.collectors.len(),
        Page::Overview | Page::Heaviest => match &known.top {
            Some(Ok(top)) => 1 + top.rows.len(),
            _ => 0,
        },
    }
}

fn title(known: &Known, view: &View) -> Line<'static> {
    let uptime_s = known.history.now().uptime_ms() / 1_000;
    let uptime = humantime::format_duration(Duration::from_secs(uptime_s));
    let mut spans = vec![Span::from("xdprobe top").bold()];
    for (is_so, what) in [(view.is_frozen, "FROZEN"), (known.is_silent, "NO ANSWER")] {
        if is_so {
            spans.push(Span::from("  "));
            spans.push(Span::from(what).bold().reversed());
        }
    }
    let page = view.page as usize + 1;
    spans.push(Span::from(format!(
        "  {page}/5 {}  up {uptime}  {}",
        name(&view.page),
        known.socket
    )));
    Line::from(spans)
}

fn overview(
    known: &Known,
    view: &View,
    look: Look,
    width: usize,
    height: Option<usize>,
) -> Vec<Line<'static>> {
    let history = &known.history;
    let aside = |height: usize| (height.saturating_sub(OVERVIEW_LEAST) / 3).min(ROWS_ASIDE);
    let places = height.map_or(usize::MAX, aside);
    let mut rows = vec![
        rate("Packets", history, |sample| {
            Some(sample.ledger.received.packets)
        }),
        rate("Bits", history, |sample| {
            Some(sample.ledger.received.octets.saturating_mul(8))
        }),
        rate("Flows", history, |sample| Some(sample.ledger.flows.created)),
        rate("Records", history, |sample| {
            Some(sample.ledger.exported.records)
        }),
    ];
    rows.extend(lost_packets(history, true, places));
    rows.extend(lost_records(history, true, places));
    let mut lines = grid(look, &RATES, &rows, width);
    lines.push(caches(history));
    let table = collectors(known, look, width);
    let left = height.map_or(usize::MAX, |height| height.saturating_sub(lines.len()));
    // The head, and one row at the least.
    lines.extend(table.into_iter().take((left / 3).max(2)));
    lines.extend(heaviest(known, view, look, width));
    lines
}

/// A row of rates.
fn rate(what: &str, history: &History, count: impl Fn(&Sample) -> Option<u64>) -> Row {
    let rates = WINDOWS_S.map(|window| short(history.rate(window, &count)));
    let total = count(history.now()).unwrap_or(0);
    let cells = [what.to_owned()].into_iter().chain(rates);
    Row {
        cells: cells.chain([total.to_string()]).collect(),
        is_alarming: false,
    }
}

/// A row of rates of a loss, which is alarming while it moves.
fn loss(what: &str, history: &History, count: impl Fn(&Sample) -> Option<u64>) -> Row {
    Row {
        is_alarming: history.is_moving(&count),
        ..rate(what, history, count)
    }
}

fn losses(history: &History) -> Vec<Row> {
    let mut rows = lost_packets(history, false, usize::MAX);
    rows.extend(lost_records(history, false, usize::MAX));
    let ledger = |name, count: fn(&Sample) -> u64| {
        let row = rate(name, history, |sample| Some(count(sample)));
        (count(history.now()) > 0).then_some(row)
    };
    let others = [
        ledger("Filtered", |sample| sample.ledger.filtered.packets),
        ledger("Sampled out", |sample| sample.ledger.sampled_out.packets),
        ledger("Own export", |sample| sample.ledger.excluded.packets),
        ledger("Undecoded", |sample| sample.ledger.undecoded.values().sum()),
    ];
    rows.extend(others.into_iter().flatten());
    let undecoded = Counts {
        of: |sample| &sample.ledger.undecoded,
        are_losses: false,
        only_counted: true,
        rows_max: usize::MAX,
    };
    rows.extend(undecoded.rows(history));
    rows
}

fn lost_packets(history: &History, only_counted: bool, rows_max: usize) -> Vec<Row> {
    let places = Counts {
        of: |sample| &sample.ledger.dropped,
        are_losses: true,
        only_counted,
        rows_max,
    };
    let mut rows = vec![loss("Lost packets", history, |sample| {
        Some(sample.lost_packets())
    })];
    rows.extend(places.rows(history));
    rows
}

fn lost_records(history: &History, only_counted: bool, rows_max: usize) -> Vec<Row> {
    let reasons = Counts {
        of: |sample| &sample.ledger.lost.reasons,
        are_losses: true,
        only_counted,
        rows_max,
    };
    let mut rows = vec![loss("Lost records", history, |sample| {
        Some(sample.ledger.lost.records)
    })];
    rows.extend(reasons.rows(history));
    rows
}

/// Counts by name, each of which becomes a row.
struct Counts {
    of: fn(&Sample) -> &BTreeMap<String, u64>,
    are_losses: bool,
    /// Without those that are zero.
    only_counted: bool,
    /// At the most so many, those that move first, and then the largest.
    rows_max: usize,
}

impl Counts {
    fn rows(&self, history: &History) -> Vec<Row> {
        let counts = (self.of)(history.now()).iter();
        let counted = counts.filter(|(_, count)| **count > 0 || !self.only_counted);
        let mut rows: Vec<_> = counted
            .map(|(name, count)| {
                let count_of = |sample: &Sample| (self.of)(sample).get(name).copied();
                let text = format!("  {name}");
                let row = if self.are_losses {
                    loss(&text, history, count_of)
                } else {
                    rate(&text, history, count_of)
                };
                (*count, row)
            })
            .collect();
        rows.sort_by_key(|(count, row)| Reverse((row.is_alarming, *count)));
        let rows = rows.into_iter().map(|(_, row)| row);
        rows.take(self.rows_max).collect()
    }
}

fn caches(history: &History) -> Line<'static> {
    let (resident, flows_max) = history.now().resident();
    let evicted = history.rate(TABLE_WINDOW_S, |sample| Some(sample.evicted()));
    Line::raw(format!(
        "  Caches: {} of {} flows, {} %; evicted {} in all, {}/s",
        short_count(resident),
        short_count(flows_max),
        percent(resident, flows_max),
        short_count(history.now().evicted()),
        short(evicted)
    ))
}

fn queues(known: &Known, look: Look, width: usize) -> Vec<Line<'static>> {
    let history = &known.history;
    let row = |queue: &QueueLine| {
        let label = queue.label();
        let of = |sample: &'_ Sample, count: fn(&QueueLine) -> u64| {
            let mut queues = sample.queues.queues.iter();
            queues.find(|queue| queue.label() == label).map(count)
        };
        let grown = |count| history.growth(TABLE_WINDOW_S, |sample| of(sample, count));
        let rate = |count| short(history.rate(TABLE_WINDOW_S, |sample| of(sample, count)));
        let lost: fn(&QueueLine) -> u64 = |queue| queue.dropped.values().sum();
        let busy = grown(|queue| queue.busy_turns).map_or(0, |(turns, _)| turns);
        let idle = grown(|queue| queue.idle_turns).map_or(0, |(turns, _)| turns);
        let is_losing = history.is_moving(|sample| of(sample, lost));
        Row {
            is_alarming: is_losing || queue.state == "down",
            cells: vec![
                label.clone(),
                queue.state.clone(),
                rate(|queue| queue.received_packets),
                rate(lost),
                short_count(lost(queue)),
                short_count(queue.resident_flows),
                percent(queue.resident_flows, queue.flows_max),
                rate(|queue| queue.flows_evicted),
                percent(busy, busy + idle),
            ],
        }
    };
    let queues = &history.now().queues;
    let rows: Vec<_> = queues.queues.iter().map(row).collect();
    let mut lines = grid(look, &QUEUES, &rows, width);
    // Packets that are lost before a queue is chosen, or without a socket.
    let outside = queues.interfaces.iter().flat_map(|(name, dropped)| {
        dropped.iter().map(move |(place, packets)| {
            let is_moving = history.is_moving(|sample| {
                let dropped = sample.queues.interfaces.get(name)?;
                // Places that lost nothing are not listed.
                Some(dropped.get(place).copied().unwrap_or(0))
            });
            let said = format!("{name}: {packets} packets lost outside its queues: {place}");
            look.line(&said, is_moving)
        })
    });
    lines.extend(outside);
    lines
}

fn collectors(known: &Known, look: Look, width: usize) -> Vec<Line<'static>> {
    let history = &known.history;
    let row = |collector: &Collector| {
        let name = &collector.collector;
        let lost = |sample: &Sample| sample.collector(name).map(Collector::lost_records);
        let sent = |sample: &Sample| sample.collector(name).map(|sent| sent.records);
        Row {
            is_alarming: collector.state != "up" || history.is_moving(lost),
            cells: vec![
                name.clone(),
                collector.state.clone(),
                short(history.rate(TABLE_WINDOW_S, sent)),
                short_count(collector.records),
                short(history.rate(TABLE_WINDOW_S, lost)),
                short_count(collector.lost_records()),
                short_count(collector.waiting),
                short_count(collector.refusals),
            ],
        }
    };
    let rows: Vec<_> = history.now().ledger.collectors.iter().map(row).collect();
    grid(look, &COLLECTORS, &rows, width)
}

/// A heading that says what is added up, and the table.
fn heaviest(known: &Known, view: &View, look: Look, width: usize) -> Vec<Line<'static>> {
    let (by, over) = (name(&view.query.by), name(&view.query.over));
    let filter = match words(&view.query.flows) {
        words if words.is_empty() => String::new(),
        words => format!("; only {words}"),
    };
    let mut lines = vec![look.heading(format!("  Heaviest by {by} over {over}{filter}"))];
    match &known.top {
        None => lines.push(look.line("asking", false)),
        Some(Err(why)) => lines.push(look.line(why, true)),
        Some(Ok(top)) => lines.extend(scrolled(top_table(top, look, width), view.offset)),
    }
    lines
}

fn top_table(top: &Top, look: Look, width: usize) -> Vec<Line<'static>> {
    let mut names = InterfaceNames::default();
    let count = |sum: &Sum| match top.by {
        By::Octets => sum.octets,
        By::Packets => sum.packets,
        By::Flows => sum.flows,
    };
    let row = |subject: String, sum: &Sum| Row {
        is_alarming: false,
        cells: vec![
            subject,
            short_count(sum.flows),
            short_count(sum.packets),
            short_count(sum.octets),
            percent(count(sum), count(&top.total)),
        ],
    };
    let mut rows = vec![row(format!("all {}", top.row_count), &top.total)];
    let each = top.rows.iter();
    rows.extend(each.map(|one| row(one.subject.text(&mut names), &one.sum)));
    grid(look, &HEAVIEST, &rows, width)
}

/// A table without the rows above the first one that is seen.
fn scrolled(mut table: Vec<Line<'static>>, offset: usize) -> Vec<Line<'static>> {
    let head = 1.min(table.len());
    let rows = table.len() - head;
    table.drain(head..head + offset.min(rows.saturating_sub(1)));
    table
}

/// The keys that matter most on a page, as many as there is room for.
fn keys(page: Page, width: usize) -> String {
    let (all, heaviest) = (
        ["q quit", "1-5 page", "space freeze"],
        ["s sort", "f filter", "o over"],
    );
    let mut keys = all.to_vec();
    if page.has_heaviest() {
        keys.extend(heaviest);
    }
    keys.push("up/down scroll");
    let mut text = String::new();
    for key in keys {
        let blanks = if text.is_empty() { "" } else { "  " };
        if text.len() + blanks.len() + key.len() > width {
            break;
        }
        text += blanks;
        text += key;
    }
    text
}

/// The filter that is typed, its end if it is long, and the column of the cursor.
fn prompt_line(prompt: &Prompt, width: usize, look: Look) -> (Line<'static>, u16) {
    const LABEL: &str = "filter: ";
    let typed = prompt.text.chars().count();
    let room = width.saturating_sub(LABEL.len() + 1);
    let shown: String = prompt
        .text
        .chars()
        .skip(typed.saturating_sub(room))
        .collect();
    let cursor = LABEL.len() + shown.chars().count();
    let mut spans = vec![Span::from(LABEL).bold(), Span::from(shown)];
    if let Some(error) = &prompt.error {
        spans.push(Span::from(" "));
        spans.extend(look.line(error, true).spans.into_iter().map(|span| {
            let style = Style::new().bold();
            span.patch_style(style)
        }));
    }
    (Line::from(spans), u16::try_from(cursor).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::sample;
    use super::*;
    use clap::ValueEnum;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;
    use ratatui::style::Color;
    use serde_json::json;

    const PLAIN: Look = Look { has_colour: false };
    const COLOURED: Look = Look { has_colour: true };

    /// A probe that receives 1 500 packets a second and loses `lost` in the second second.
    fn known(lost: u64) -> Known {
        let mut history = History::new(sample(0, 0, 0));
        history.add(sample(1_000, 1_500, 0));
        history.add(sample(2_000, 3_000, lost));
        let rows: Vec<_> = (1..=20)
            .map(|last: u64| {
                json!({
                    "source": format!("192.0.2.{last}"),
                    "flows": 2, "packets": 100 - last, "octets": 100_000 - last,
                })
            })
            .collect();
        let top = json!({
            "by": "octets", "over": "source", "row_count": 500, "rows": rows,
            "total": { "flows": 250, "packets": 3_000, "octets": 300_000 },
        });
        Known {
            socket: "/run/xdprobe/tap0.sock".to_owned(),
            history,
            top: Some(Ok(serde_json::from_value(top).unwrap())),
            is_silent: false,
        }
    }

    fn at(page: Page) -> View {
        View {
            page,
            ..View::default()
        }
    }

    fn screen(known: &Known, view: &View, look: Look, size: (u16, u16)) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let drawn = terminal.draw(|frame| draw(frame, known, view, look));
        drawn.unwrap().buffer.clone()
    }

    /// The lines of a screen without the blanks at their ends.
    fn texts(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width);
        let lines = buffer.content.chunks(width).map(|line| {
            let text: String = line.iter().map(|cell| cell.symbol()).collect();
            text.trim_end().to_owned()
        });
        lines.collect()
    }

    fn text(known: &Known, view: &View, size: (u16, u16)) -> String {
        texts(&screen(known, view, PLAIN, size)).join("\n")
    }

    #[test]
    fn the_overview_fits_on_80_columns_and_24_lines() {
        let expected = "\
xdprobe top  1/5 overview  up 2s  /run/xdprobe/tap0.sock
  Per second         2 s    10 s    40 s          Total
  Packets          1.50k   1.50k   1.50k           3000
  Bits             1.20M   1.20M   1.20M        2400000
  Flows              150     150     150            300
  Records             75      75      75            150
! Lost packets        20      20      20             47
!   ring_full         20      20      20             40
    driver             0       0       0              7
  Lost records         0       0       0              0
  Caches: 250 of 1.00k flows, 25.0 %; evicted 20 in all, 10/s
  Collector            State Records/s    Sent Lost/s   Lost Waiting
  192.0.2.9:2055          up        75     150      0      0       0
  Heaviest by octets over source
               Flows Packets  Octets Share %
  all 500        250   3.00k    300k   100.0
  192.0.2.1        2      99    100k    33.3
  192.0.2.2        2      98    100k    33.3
  192.0.2.3        2      97    100k    33.3
  192.0.2.4        2      96    100k    33.3
  192.0.2.5        2      95    100k    33.3
  192.0.2.6        2      94    100k    33.3
  192.0.2.7        2      93    100k    33.3
q quit  1-5 page  space freeze  s sort  f filter  o over  up/down scroll";
        assert_eq!(text(&known(40), &at(Page::Overview), (80, 24)), expected);
    }

    #[test]
    fn a_small_screen_has_the_rates_and_the_first_keys() {
        let expected = "\
xdprobe top  1/5 overview  up 2s  /run/x
  Per second         2 s    10 s    40 s
  Packets          1.50k   1.50k   1.50k
  Bits             1.20M   1.20M   1.20M
  Flows              150     150     150
  Records             75      75      75
  Lost packets         0       0       0
  Lost records         0       0       0
  Caches: 250 of 1.00k flows, 25.0 %; ev
q quit  1-5 page  space freeze  s sort";
        assert_eq!(text(&known(0), &at(Page::Overview), (40, 10)), expected);
    }

    #[test]
    fn a_large_screen_has_every_row() {
        let said = text(&known(0), &at(Page::Overview), (200, 60));
        for expected in ["192.0.2.20 ", "  all 500 ", "Refusals"] {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn no_size_and_no_page_is_too_small_or_too_large() {
        let known = known(40);
        for page in Page::value_variants() {
            for width in [1, 2, 7, 20, 39, 80, 200, 500] {
                for height in [1, 2, 3, 9, 24, 60, 120] {
                    let mut view = at(*page);
                    screen(&known, &view, COLOURED, (width, height));
                    view.offset = 1_000;
                    view.prompt = Some(Prompt {
                        text: "port=".repeat(30),
                        error: Some("wrong".to_owned()),
                    });
                    screen(&known, &view, COLOURED, (width, height));
                }
            }
        }
    }

    #[test]
    fn a_loss_that_moves_is_red_and_has_a_sign_which_stays_without_colour() {
        let is_red = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg == Color::Red);
        for page in [Page::Overview, Page::Losses, Page::Queues] {
            let (calm, moving) = (known(0), known(40));
            let view = at(page);
            let coloured = screen(&moving, &view, COLOURED, (80, 24));
            let plain = screen(&moving, &view, PLAIN, (80, 24));
            assert!(is_red(&coloured) && !is_red(&plain), "{page:?}");
            for buffer in [&coloured, &plain] {
                let lines = texts(buffer);
                assert!(lines.iter().any(|line| line.starts_with('!')), "{lines:?}");
            }
            assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset));
            let calm = screen(&calm, &view, COLOURED, (80, 24));
            assert!(!is_red(&calm), "{page:?}");
            assert!(!texts(&calm).iter().any(|line| line.starts_with('!')));
        }
    }

    #[test]
    fn losses_are_listed_by_place_whether_they_move_or_not() {
        let said = text(&known(40), &at(Page::Losses), (80, 24));
        for expected in [
            "!   ring_full         20      20      20             40",
            "    no_socket          0       0       0              0",
            "    hand_over          0       0       0              0",
            "  Filtered             0       0       0              3",
            "    not_ip             0       0       0              5",
        ] {
            assert!(said.contains(expected), "{said}");
        }
        assert!(!said.contains("s sort"), "{said}");
    }

    #[test]
    fn queues_have_the_rates_of_the_last_ten_seconds() {
        let expected = "\
! tap0/0  running     1.50k     20       40    250   25.0        10   50.0";
        let said = text(&known(40), &at(Page::Queues), (80, 24));
        assert!(said.contains(expected), "{said}");
        let narrow = text(&known(40), &at(Page::Queues), (40, 10));
        assert!(
            narrow.contains("! tap0/0  running     1.50k     20\n"),
            "{narrow}"
        );
    }

    #[test]
    fn a_collector_that_is_not_up_has_a_sign() {
        let mut history = known(0).history;
        let mut latest = history.now().clone();
        latest.queues.uptime_ms += 1_000;
        latest.ledger.collectors[0].state = "unresolved".to_owned();
        history.add(latest);
        let known = Known {
            history,
            ..known(0)
        };
        let said = text(&known, &at(Page::Collectors), (80, 24));
        assert!(said.contains("! 192.0.2.9:2055  unresolved "), "{said}");
    }

    #[test]
    fn the_heading_says_what_is_added_up_and_of_which_flows() {
        let mut view = at(Page::Heaviest);
        view.query.flows.port = Some(53);
        let said = text(&known(0), &view, (80, 24));
        let heading = "  Heaviest by octets over source; only port=53\n";
        assert!(said.contains(heading), "{said}");
        view.offset = 16;
        let said = text(&known(0), &view, (80, 24));
        assert!(
            !said.contains("192.0.2.15 ") && said.contains("192.0.2.16 "),
            "{said}"
        );
        let refused = Known {
            top: Some(Err("interface 'x' does not exist".to_owned())),
            ..known(0)
        };
        let said = text(&refused, &view, (80, 24));
        assert!(said.contains("! interface 'x' does not exist"), "{said}");
    }

    #[test]
    fn a_frozen_screen_a_silent_probe_and_a_filter_that_is_typed_are_said() {
        let mut view = at(Page::Overview);
        view.is_frozen = true;
        let silent = Known {
            is_silent: true,
            ..known(0)
        };
        let said = text(&silent, &view, (80, 24));
        assert!(
            said.contains("FROZEN") && said.contains("NO ANSWER"),
            "{said}"
        );
        view.prompt = Some(Prompt {
            text: "port=http".to_owned(),
            error: Some("invalid value".to_owned()),
        });
        let said = text(&silent, &view, (80, 24));
        assert!(
            said.ends_with("filter: port=http ! invalid value"),
            "{said}"
        );
    }

    #[test]
    fn without_a_height_every_row_is_printed() {
        let lines = lines(&known(40), &at(Page::Overview), PLAIN, 80, None);
        assert_eq!(lines.len(), 15 + 21);
    }
}
