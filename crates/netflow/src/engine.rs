//! The engine of an exporter: one of the parts of a device that export on their own.

use std::str::FromStr;

/// Engine type and id. The exporter's address and its engine name one sequence space.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_written_as_type_and_id() {
        assert_eq!("3:255".parse(), Ok(Engine { r#type: 3, id: 255 }));
        for wrong in ["", "3", "3:", ":3", "3:256", "1:2:3"] {
            let error = wrong.parse::<Engine>().unwrap_err();
            assert!(
                error.starts_with(&format!("'{wrong}' is not an engine")),
                "{error}"
            );
        }
    }
}
