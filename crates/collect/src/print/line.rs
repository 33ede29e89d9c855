//! Text that is built piece by piece: what `printf` is to flow-print, without parsing a format for
//! each record.
//!
//! Each method writes one conversion: `left` is `%-Nu`, `right` is `%Nu`, `zeros` is `%N.Nu`.

use std::net::Ipv4Addr;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Text to append to.
#[derive(Debug, Default)]
pub(super) struct Line(Vec<u8>);

impl Line {
    pub(super) fn with_capacity(octets: usize) -> Self {
        Self(Vec::with_capacity(octets))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[inline]
    pub(super) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// `%u`.
    #[inline]
    pub(super) fn number(&mut self, number: impl itoa::Integer) {
        self.text(itoa::Buffer::new().format(number));
    }

    /// `%-{width}u`.
    #[inline]
    pub(super) fn left(&mut self, number: impl itoa::Integer, width: usize) {
        let start = self.0.len();
        self.number(number);
        self.pad_from(start, width);
    }

    /// `%-{width}.{octets_max}s`.
    #[inline]
    pub(super) fn left_text(&mut self, text: &str, octets_max: usize, width: usize) {
        let start = self.0.len();
        let octets = text.as_bytes();
        self.0
            .extend_from_slice(&octets[..octets.len().min(octets_max)]);
        self.pad_from(start, width);
    }

    /// `%{width}u`.
    #[inline]
    pub(super) fn right(&mut self, number: impl itoa::Integer, width: usize) {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number);
        self.0
            .resize(self.0.len() + width.saturating_sub(digits.len()), b' ');
        self.text(digits);
    }

    /// `%.{width}u`: zeros on the left.
    #[inline]
    pub(super) fn zeros(&mut self, number: impl itoa::Integer, width: usize) {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number);
        self.0
            .resize(self.0.len() + width.saturating_sub(digits.len()), b'0');
        self.text(digits);
    }

    /// `%02u` of a number below 100, and the text after it.
    #[inline]
    pub(super) fn two(&mut self, number: u8, after: u8) {
        self.0
            .extend_from_slice(&[b'0' + number / 10, b'0' + number % 10, after]);
    }

    /// `%2.2x`.
    #[inline]
    pub(super) fn hex2(&mut self, number: u8) {
        self.0
            .extend_from_slice(&[HEX[usize::from(number >> 4)], HEX[usize::from(number & 15)]]);
    }

    /// `%4.4x`.
    #[inline]
    pub(super) fn hex4(&mut self, number: u16) {
        let [high, low] = number.to_be_bytes();
        self.hex2(high);
        self.hex2(low);
    }

    /// `%2.2x` of a number that may need more than two digits.
    #[inline]
    pub(super) fn hex2_or_more(&mut self, number: u16) {
        match number {
            0..=0xff => self.hex2((number & 0xff) as u8),
            _ => self.hex(number),
        }
    }

    /// `%-4x`.
    #[inline]
    pub(super) fn hex_left4(&mut self, number: u16) {
        let start = self.0.len();
        self.hex(number);
        self.pad_from(start, 4);
    }

    /// `%-15.15s` of a dotted quad.
    #[inline]
    pub(super) fn address15(&mut self, address: Ipv4Addr) {
        let start = self.0.len();
        self.address(address);
        self.pad_from(start, 15);
    }

    #[inline]
    pub(super) fn address(&mut self, address: Ipv4Addr) {
        let [a, b, c, d] = address.octets();
        self.number(a);
        self.0.push(b'.');
        self.number(b);
        self.0.push(b'.');
        self.number(c);
        self.0.push(b'.');
        self.number(d);
    }

    /// `%-18.18s` of an address and its prefix length in the format of flow-tools: zero octets at
    /// the end of the address are left out (`10.1/16`), and a length above 32 is written as 0.
    ///
    /// Source: flow-tools 0.68, `lib/fmt.c`, `fmt_ipv4prefix`.
    #[inline]
    pub(super) fn prefix18(&mut self, address: Ipv4Addr, mask: u8) {
        let start = self.0.len();
        let octets = address.octets();
        let shown = octets
            .iter()
            .rposition(|octet| *octet != 0)
            .map_or(1, |last| last + 1);
        self.number(octets[0]);
        for octet in &octets[1..shown] {
            self.0.push(b'.');
            self.number(*octet);
        }
        self.0.push(b'/');
        self.number(if mask > 32 { 0 } else { mask });
        self.pad_from(start, 18);
    }

    /// `%x`.
    #[inline]
    fn hex(&mut self, number: u16) {
        let digits = (u16::BITS - (number | 1).leading_zeros()).div_ceil(4);
        for place in (0..digits).rev() {
            self.0.push(HEX[usize::from(number >> (place * 4) & 15)]);
        }
    }

    /// Appends blanks until the text since `start` is `width` long.
    #[inline]
    fn pad_from(&mut self, start: usize, width: usize) {
        let end = start + width;
        if self.0.len() < end {
            self.0.resize(end, b' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(write: impl FnOnce(&mut Line)) -> String {
        let mut line = Line::default();
        write(&mut line);
        String::from_utf8(line.0).unwrap()
    }

    #[test]
    fn prefixes_leave_out_zero_octets_at_the_end() {
        let prefix = |address: [u8; 4], mask| line(|line| line.prefix18(address.into(), mask));
        assert_eq!(prefix([192, 168, 5, 16], 0), "192.168.5.16/0    ");
        assert_eq!(prefix([10, 1, 0, 0], 16), "10.1/16           ");
        assert_eq!(prefix([10, 0, 0, 1], 32), "10.0.0.1/32       ");
        assert_eq!(prefix([0, 0, 0, 0], 33), "0/0               ");
        assert_eq!(prefix([255; 4], 32), "255.255.255.255/32");
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_printf_writes_them(number: u32, narrow: u16, octet: u8) {
            prop_assert_eq!(line(|line| line.left(number, 5)), format!("{number:<5}"));
            prop_assert_eq!(line(|line| line.right(narrow, 7)), format!("{narrow:>7}"));
            prop_assert_eq!(line(|line| line.zeros(octet, 3)), format!("{octet:03}"));
            let two = octet % 100;
            prop_assert_eq!(line(|line| line.two(two, b':')), format!("{two:02}:"));
            prop_assert_eq!(line(|line| line.hex2(octet)), format!("{octet:02x}"));
            prop_assert_eq!(line(|line| line.hex4(narrow)), format!("{narrow:04x}"));
            prop_assert_eq!(line(|line| line.hex2_or_more(narrow)), format!("{narrow:02x}"));
            prop_assert_eq!(line(|line| line.hex_left4(narrow)), format!("{narrow:<4x}"));
        }

        #[test]
        fn addresses_are_written_as_the_library_writes_them(address: Ipv4Addr) {
            let text = address.to_string();
            prop_assert_eq!(line(|line| line.address15(address)), format!("{text:<15}"));
        }
    }
}
