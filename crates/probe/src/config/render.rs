//! A configuration as people read it: a table, or a file with every key.

use super::definition::{Definition, Key, Kind};
use super::setting::{Origin, Setting};
use comfy_table::{Table, presets};
use std::fmt::{self, Write};

/// A table of every key, its value and where the value is from.
pub fn table(definition: &Definition, settings: &[Setting]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["KEY", "VALUE", "FROM"]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for (key, setting) in definition.keys().zip(settings) {
        let value = match key.otherwise().filter(|_| !setting.has_value()) {
            Some(otherwise) => format!("({otherwise})"),
            None => setting.value.to_string(),
        };
        table.add_row([setting.key.clone(), value, setting.origin.to_string()]);
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// A configuration file of every key, each behind its help. Defaults are commented out, and keys
/// without a value have a placeholder.
pub fn toml(definition: &Definition, settings: &[Setting]) -> String {
    let mut file = String::from(HEAD);
    // Writing into a string does not fail.
    let _ = write_keys(&mut file, definition, settings);
    file
}

const HEAD: &str = "\
# Configuration of xdprobe run -c FILE: every key, each a long option without its dashes.
# Keys that are commented out are at their defaults. <NAME> is a placeholder: such a key has no
# default. Options on the command line win. Check a file with: xdprobe config check FILE
";

/// Columns of a comment.
const WIDTH: usize = 100;

fn write_keys(file: &mut String, definition: &Definition, settings: &[Setting]) -> fmt::Result {
    let pairs: Vec<_> = definition.keys().zip(settings).collect();
    let mut headings: Vec<_> = pairs.iter().map(|(key, _)| key.heading()).collect();
    // Groups are in the order of their first keys.
    let mut seen = Vec::new();
    headings.retain(|heading| {
        let is_new = !seen.contains(heading);
        seen.push(*heading);
        is_new
    });
    for heading in headings {
        if let Some(heading) = heading {
            writeln!(file, "\n# --- {heading} ---")?;
        }
        for (key, setting) in pairs.iter().filter(|(key, _)| key.heading() == heading) {
            writeln!(file)?;
            write_key(file, key, setting)?;
        }
    }
    Ok(())
}

fn write_key(file: &mut String, key: &Key, setting: &Setting) -> fmt::Result {
    write_comment(file, &key.help())?;
    for (name, help) in key.choices() {
        write_comment(file, &format!("* {name}: {help}"))?;
    }
    let mark = if setting.origin == Origin::Default {
        "#"
    } else {
        ""
    };
    match setting.value.to_toml() {
        Some(value) => writeln!(file, "{mark}{} = {value}", key.name()),
        None if key.kind == Kind::Number => {
            writeln!(file, "#{} = <{}>", key.name(), key.value_name())
        }
        None => writeln!(file, "#{} = \"<{}>\"", key.name(), key.value_name()),
    }
}

fn write_comment(file: &mut String, text: &str) -> fmt::Result {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(file, "{line}")?;
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(file, "{line}")
}
