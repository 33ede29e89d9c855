//! The engine that a header names.

use std::str::FromStr;

/// Engine type and id: with the exporter's address they name one sequence space.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Engine {
    /// Engine type.
    pub r#type: u8,
    /// Engine id.
    pub id: u8,
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(r#type, id)| {
            Some(Self {
                r#type: r#type.parse().ok()?,
                id: id.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| {
            format!("'{text}' is not an engine: expected TYPE:ID, each 0 to 255, as in 0:1")
        })
    }
}
