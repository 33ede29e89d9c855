//! Routes by longest prefix: AS, mask and next hop for the addresses of a record.
//!
//! A [`RouteTable`] is read from a CSV file and never changes. A look-up takes at most three steps:
//! by the first 16 bits of the address, the next 8 and the last 8. The first step is nearly always
//! in the processor's cache; tries that step by one bit or by six miss it each time. Of the last
//! step only the runs of equal entries are kept, since prefixes longer than 24 bits are scattered
//! (docs/decisions/0002-route-table.md).

use csv::{ByteRecord, ReaderBuilder};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

/// What a table has for an address; all zero if it has no prefix for it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// Next hop router.
    pub next_hop: [u8; 4],
    /// Autonomous system; [`AS_TRANS`] for those that 16 bits do not hold.
    pub r#as: u16,
    /// Length of the prefix in bits.
    pub mask: u8,
}

/// Replaces every AS above 65535 in fields of 16 bits (RFC 6793, section 9).
pub const AS_TRANS: u16 = 23_456;

/// Routes of IPv4 prefixes, looked up by the longest that contains an address.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Entries by the first 16 bits of an address.
    top: Box<[Entry]>,
    /// Entries by the next 8 bits, where there are longer prefixes.
    blocks: Vec<[Entry; 256]>,
    /// The last 8 bits, where there are still longer ones.
    lasts: Vec<LastBlock>,
    /// The entries of all of these, one for each run of equal ones.
    runs: Vec<Entry>,
    /// The routes that entries refer to; the first is that of addresses without a prefix.
    routes: Vec<Route>,
    skipped_count: usize,
}

/// An error in a table, and its line, counted from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{line}: {what}")]
pub struct TableError {
    /// Number of the line.
    pub line: u64,
    /// What was found, and what is expected.
    pub what: String,
}

/// 256 entries as runs of equal ones.
#[derive(Clone, Copy, Debug)]
struct LastBlock {
    /// A bit for each of the entries that differ from the one before; the first is always set.
    starts: [u64; 4],
    /// Where its runs begin.
    first: u32,
    /// Runs that begin in the words of `starts` before each.
    before: [u8; 4],
}

impl LastBlock {
    /// Where the entry of an octet is.
    #[inline]
    fn index_of(&self, octet: u8) -> usize {
        let (word, bit) = (usize::from(octet / 64), octet % 64);
        let up_to = self.starts[word] << (63 - bit);
        self.first as usize + usize::from(self.before[word]) + up_to.count_ones() as usize - 1
    }
}

/// The number of a route, or of a block with entries for 8 bits more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry(u32);

impl Entry {
    const IS_BLOCK: u32 = 1 << 31;
    const NO_ROUTE: Self = Self(0);

    fn of_block(block: usize) -> Self {
        let number = u32::try_from(block).expect("there are at most 2^24 blocks of one kind");
        Self(number | Self::IS_BLOCK)
    }

    #[inline]
    fn block(self) -> Option<usize> {
        (self.0 & Self::IS_BLOCK != 0).then_some((self.0 & !Self::IS_BLOCK) as usize)
    }
}

/// The columns of a table.
const COLUMNS: [&[u8]; 3] = [b"prefix", b"as", b"nexthop"];

impl RouteTable {
    /// The table in a CSV file with the columns `prefix,as,nexthop`, named in its first line.
    ///
    /// A prefix has no bits beyond its length and occurs once. An AS has up to 32 bits. An unknown
    /// next hop is left empty. IPv6 prefixes are skipped, because NetFlow v5 does not carry them;
    /// for the same reason IPv6 next hops count as unknown. Lines that begin with `#` are comments.
    ///
    /// # Errors
    ///
    /// The first error in the file. A last line without a line end is one: the file was cut off.
    pub fn read(file: &[u8]) -> Result<Self, TableError> {
        let wrong_at = |end: usize, what: String| TableError {
            line: line_that_ends_at(file, end),
            what,
        };
        if file.last().is_some_and(|&octet| octet != b'\n') {
            return Err(wrong_at(
                file.len(),
                "no line end: the file is cut off here; write it again in full".to_owned(),
            ));
        }
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .from_reader(file);
        let mut record = ByteRecord::new();
        let (mut rows, mut skipped_count, mut is_header) = (Vec::new(), 0, true);
        loop {
            let more = reader.read_byte_record(&mut record);
            let end =
                usize::try_from(reader.position().byte()).expect("a position in memory is a usize");
            if !more.map_err(|error| wrong_at(end, error.to_string()))? {
                break;
            }
            if std::mem::take(&mut is_header) {
                if record.iter().ne(COLUMNS) {
                    let found = text(&record);
                    return Err(wrong_at(
                        end,
                        format!("found '{found}', expected the column names prefix,as,nexthop"),
                    ));
                }
                continue;
            }
            match Row::read(&record, end).map_err(|what| wrong_at(end, what))? {
                Some(row) => rows.push(row),
                None => skipped_count += 1,
            }
        }
        if is_header {
            return Err(wrong_at(
                0,
                "the file is empty: expected the column names prefix,as,nexthop in its first line"
                    .to_owned(),
            ));
        }
        // Longer prefixes overwrite shorter ones.
        rows.sort_unstable_by_key(|row| (row.route.mask, row.network, row.end));
        let is_same = |pair: &&[Row]| {
            (pair[0].network, pair[0].route.mask) == (pair[1].network, pair[1].route.mask)
        };
        if let Some([first, again]) = rows.windows(2).find(is_same) {
            let (network, length) = (Ipv4Addr::from_bits(again.network), again.route.mask);
            let first = line_that_ends_at(file, first.end);
            return Err(wrong_at(
                again.end,
                format!("{network}/{length} is already in line {first}: remove one of the two"),
            ));
        }
        Ok(Self::of_rows(&rows, skipped_count))
    }

    /// The table of rows that are sorted by the lengths of their prefixes.
    fn of_rows(rows: &[Row], skipped_count: usize) -> Self {
        let routes = std::iter::once(Route::default())
            .chain(rows.iter().map(|row| row.route))
            .collect();
        let mut table = Self {
            routes,
            skipped_count,
            ..Self::default()
        };
        let numbered: Vec<_> = (1..).map(Entry).zip(rows).collect();
        let long = numbered.partition_point(|(_, row)| row.route.mask <= 24);
        let (short, long) = numbered.split_at(long);
        for (entry, row) in short {
            table.write(row.network, row.route.mask, *entry);
        }
        let mut long = long.to_vec();
        // Stable: those of one block stay sorted by their lengths.
        long.sort_by_key(|(_, row)| row.network >> 8);
        let of_one_block =
            |one: &(Entry, &Row), other: &(Entry, &Row)| one.1.network >> 8 == other.1.network >> 8;
        table
            .lasts
            .reserve_exact(long.chunk_by(of_one_block).count());
        for rows in long.chunk_by(of_one_block) {
            table.write_last(rows);
        }
        table.runs.shrink_to_fit();
        table
    }

    /// Writes an entry over all addresses of a prefix of at most 24 bits; no longer prefix has been
    /// written yet.
    fn write(&mut self, network: u32, length: u8, entry: Entry) {
        let [first, second, third, _] = network.to_be_bytes();
        let start = usize::from(u16::from_be_bytes([first, second]));
        let range = |start: usize, bits: u8| start..start + (1 << (bits - length));
        if length <= 16 {
            self.top[range(start, 16)].fill(entry);
            return;
        }
        let block = Self::block_in(&mut self.top[start], &mut self.blocks);
        self.blocks[block][range(third.into(), 24)].fill(entry);
    }

    /// Writes all rows with more than 24 bits of which they share the first 24, shorter ones first.
    fn write_last(&mut self, rows: &[(Entry, &Row)]) {
        let [(_, any), ..] = rows else { return };
        let [first, second, third, _] = any.network.to_be_bytes();
        let start = usize::from(u16::from_be_bytes([first, second]));
        let block = Self::block_in(&mut self.top[start], &mut self.blocks);
        let of_third = &mut self.blocks[block][usize::from(third)];
        let mut entries = [*of_third; 256];
        for (entry, row) in rows {
            let [.., fourth] = row.network.to_be_bytes();
            let fourth = usize::from(fourth);
            entries[fourth..fourth + (1 << (32 - row.route.mask))].fill(*entry);
        }
        *of_third = Entry::of_block(self.lasts.len());
        self.lasts.push(last_block(&entries, &mut self.runs));
    }

    /// The block of an entry. If it has none, a new one, filled with that entry.
    fn block_in(entry: &mut Entry, blocks: &mut Vec<[Entry; 256]>) -> usize {
        if let Some(block) = entry.block() {
            return block;
        }
        let block = blocks.len();
        blocks.push([*entry; 256]);
        *entry = Entry::of_block(block);
        block
    }

    /// The route of the longest prefix that contains the address.
    #[must_use]
    #[inline]
    pub fn look_up(&self, address: Ipv4Addr) -> Route {
        let [first, second, third, fourth] = address.octets();
        let mut entry = self.top[usize::from(u16::from_be_bytes([first, second]))];
        if let Some(block) = entry.block() {
            entry = self.blocks[block][usize::from(third)];
            if let Some(last) = entry.block() {
                entry = self.runs[self.lasts[last].index_of(fourth)];
            }
        }
        self.routes[entry.0 as usize]
    }

    /// How many prefixes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len() - 1
    }

    /// Whether it has no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory that it takes.
    #[must_use]
    pub fn octets(&self) -> usize {
        size_of_val(&*self.top)
            + self.blocks.capacity() * size_of::<[Entry; 256]>()
            + self.lasts.capacity() * size_of::<LastBlock>()
            + self.runs.capacity() * size_of::<Entry>()
            + self.routes.capacity() * size_of::<Route>()
    }

    /// How many IPv6 prefixes were skipped.
    #[must_use]
    pub fn skipped_count(&self) -> usize {
        self.skipped_count
    }
}

impl Default for RouteTable {
    /// A table without a prefix.
    fn default() -> Self {
        let top = vec![Entry::NO_ROUTE; 1 << 16].into();
        Self {
            top,
            blocks: Vec::new(),
            lasts: Vec::new(),
            runs: Vec::new(),
            routes: vec![Route::default()],
            skipped_count: 0,
        }
    }
}

/// A block of these entries, whose runs are added to `runs`.
fn last_block(entries: &[Entry; 256], runs: &mut Vec<Entry>) -> LastBlock {
    let first = u32::try_from(runs.len()).expect("a file of 4 GB has fewer runs");
    let (mut starts, mut before) = ([0; 4], [0; 4]);
    for (word, entries_of_word) in entries.chunks(64).enumerate() {
        let runs_before = runs.len() - first as usize;
        before[word] = u8::try_from(runs_before).expect("three words have at most 192 runs");
        for (bit, entry) in entries_of_word.iter().enumerate() {
            let is_first = (word, bit) == (0, 0);
            if is_first || runs.last() != Some(entry) {
                starts[word] |= 1 << bit;
                runs.push(*entry);
            }
        }
    }
    LastBlock {
        starts,
        first,
        before,
    }
}

/// A line of a table.
struct Row {
    network: u32,
    route: Route,
    /// Where its line ends, in octets from the start of the file.
    end: usize,
}

impl Row {
    /// The row in a line; none for an IPv6 prefix. The error names what is wrong with the line.
    fn read(record: &ByteRecord, end: usize) -> Result<Option<Self>, String> {
        let field = |column| {
            record
                .get(column)
                .and_then(|field| std::str::from_utf8(field).ok())
                .map(str::trim)
        };
        let (Some(prefix), Some(r#as), Some(next_hop), 3) =
            (field(0), field(1), field(2), record.len())
        else {
            return Err(format!(
                "found '{}', expected prefix,as,nexthop",
                text(record)
            ));
        };
        let not_a_prefix =
            |_| format!("'{prefix}' is not a prefix: expected ADDRESS/LENGTH, as in 192.0.2.0/24");
        let net: IpNet = prefix.parse().map_err(not_a_prefix)?;
        if net.addr() != net.network() {
            return Err(format!(
                "{prefix} has bits beyond its length: expected {}",
                net.trunc()
            ));
        }
        let not_an_as = |_| {
            format!(
                "'{}' is not an AS: expected a number from 0 to {}",
                r#as,
                u32::MAX
            )
        };
        let number: u32 = r#as.parse().map_err(not_an_as)?;
        let not_a_next_hop = |_| {
            format!("'{next_hop}' is not a next hop: expected an address, or nothing if unknown")
        };
        let next_hop = if next_hop.is_empty() {
            None
        } else {
            Some(next_hop.parse().map_err(not_a_next_hop)?)
        };
        let IpNet::V4(net) = net else { return Ok(None) };
        let next_hop = match next_hop {
            Some(IpAddr::V4(next_hop)) => next_hop.octets(),
            Some(IpAddr::V6(_)) | None => [0; 4],
        };
        let r#as = u16::try_from(number).unwrap_or(AS_TRANS);
        let route = Route {
            next_hop,
            r#as,
            mask: net.prefix_len(),
        };
        Ok(Some(Self {
            network: net.network().to_bits(),
            route,
            end,
        }))
    }
}

/// The number of the line whose last octet, its line end or a part of it, is before `end`.
fn line_that_ends_at(file: &[u8], end: usize) -> u64 {
    let before = &file[..end.saturating_sub(1).min(file.len())];
    before.iter().filter(|&&octet| octet == b'\n').count() as u64 + 1
}

/// A row as it is in the file, apart from quotes and spaces.
fn text(row: &ByteRecord) -> String {
    row.iter()
        .map(String::from_utf8_lossy)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn table(rows: &str) -> Result<RouteTable, TableError> {
        RouteTable::read(format!("prefix,as,nexthop\n{rows}").as_bytes())
    }

    fn refused(file: &str) -> String {
        RouteTable::read(file.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let table = table(
            "0.0.0.0/0,1,\n10.0.0.0/8,2,192.0.2.1\n10.1.0.0/16,3,192.0.2.2\n10.1.2.0/23,4,\n\
             # a comment\n10.1.2.128/25,5,\n\
             10.1.2.129/32,4200000000,192.0.2.3\n2001:db8::/32,6,2001:db8::1\n",
        );
        let table = table.unwrap();
        let as_of = |address: [u8; 4]| table.look_up(address.into()).r#as;
        assert_eq!((table.len(), table.skipped_count()), (6, 1));
        assert_eq!(
            [
                as_of([11, 0, 0, 0]),
                as_of([10, 0, 255, 255]),
                as_of([10, 1, 1, 0])
            ],
            [1, 2, 3]
        );
        assert_eq!(
            [
                as_of([10, 1, 3, 255]),
                as_of([10, 1, 2, 128]),
                as_of([10, 1, 2, 127])
            ],
            [4, 5, 4]
        );
        let last = table.look_up(Ipv4Addr::new(10, 1, 2, 129));
        assert_eq!(
            last,
            Route {
                next_hop: [192, 0, 2, 3],
                r#as: AS_TRANS,
                mask: 32
            }
        );
    }

    #[test]
    fn an_address_without_a_prefix_has_no_route() {
        assert_eq!(
            RouteTable::default().look_up(Ipv4Addr::LOCALHOST),
            Route::default()
        );
        let table = table("10.0.0.0/8,2,\n").unwrap();
        assert_eq!(
            table.look_up(Ipv4Addr::new(9, 255, 255, 255)),
            Route::default()
        );
    }

    #[test]
    fn an_error_names_its_line_what_was_found_and_what_is_expected() {
        for (file, expected) in [
            ("", "1: the file is empty"),
            (
                "10.0.0.0/8,1,\n",
                "1: found '10.0.0.0/8,1,', expected the column names prefix,as,nexthop",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,1,",
                "2: no line end: the file is cut off here",
            ),
            (
                "prefix,as,nexthop\n# why\n10.0.0.0/8,1\n",
                "3: found '10.0.0.0/8,1', expected prefix,as,nexthop",
            ),
            (
                "prefix,as,nexthop\r\n# why\r\n\r\n10.0.0.0/8,1\r\n",
                "4: found '10.0.0.0/8,1', expected prefix,as,nexthop",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,1,,\n",
                "2: found '10.0.0.0/8,1,,'",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/33,1,\n",
                "2: '10.0.0.0/33' is not a prefix",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,1,\n10.1.0.0/8,1,\n",
                "3: 10.1.0.0/8 has bits beyond its length: expected 10.0.0.0/8",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,4294967296,\n",
                "2: '4294967296' is not an AS",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,1,there\n",
                "2: 'there' is not a next hop",
            ),
            (
                "prefix,as,nexthop\n10.0.0.0/8,1,\n9.0.0.0/8,1,\n10.0.0.0/8,2,\n",
                "4: 10.0.0.0/8 is already in line 2",
            ),
        ] {
            let error = refused(file);
            assert!(error.starts_with(expected), "{file:?}: {error}");
        }
    }

    #[test]
    fn scattered_long_prefixes_take_tens_of_octets_each() {
        let count: u32 = 20_000;
        // Each in a block of 256 addresses of its own.
        let rows = (0..count).map(|n| {
            let address = Ipv4Addr::from_bits((10 << 24) + (n << 8) + (n & 0xff));
            format!("{address}/32,{},\n", n % 60_000)
        });
        let table = table(&rows.collect::<String>()).unwrap();
        for n in (0..count).step_by(77) {
            let address = (10 << 24) + (n << 8) + (n & 0xff);
            let found = table.look_up(Ipv4Addr::from_bits(address));
            assert_eq!((u32::from(found.r#as), found.mask), (n % 60_000, 32));
            let beside = table.look_up(Ipv4Addr::from_bits(address ^ 1));
            assert_eq!(beside, Route::default());
        }
        let octets = table.octets() - RouteTable::default().octets();
        assert!(octets < 100 * count as usize, "{octets}");
    }

    proptest! {
        /// The route of every address is that of the longest prefix that contains it.
        #[test]
        fn look_ups_equal_a_search_through_all_prefixes(
            rows in vec((any::<u32>(), 0u8..=32, any::<u16>()), 0..60),
            addresses in vec(any::<u32>(), 0..60),
        ) {
            let mask = |length: u8| u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            // Few different first octets, and half of them in few blocks of 256 addresses, so that
            // prefixes contain each other.
            let near = |bits: u32| match bits >> 31 {
                0 => (bits & 0x01ff_ffff) | 0x0a00_0000,
                _ => (bits & 0x0000_03ff) | 0x0a01_0200,
            };
            let rows: std::collections::BTreeMap<_, _> =
                rows.into_iter()
                    .map(|(bits, length, number)| ((length, near(bits) & mask(length)), number))
                    .collect();
            let line = |(&(length, bits), number): (&(u8, u32), &u16)| {
                format!("{}/{length},{number},\n", Ipv4Addr::from_bits(bits))
            };
            let table = table(&rows.iter().map(line).collect::<String>()).unwrap();
            let edges = rows.keys().flat_map(|&(length, bits)| {
                [bits, bits | !mask(length), bits.wrapping_sub(1)]
            });
            for address in addresses.iter().map(|&bits| near(bits)).chain(edges) {
                let contains = |(length, bits): (u8, u32)| address & mask(length) == bits;
                let longest = rows.iter().rev().find(|(prefix, _)| contains(**prefix));
                let expected = longest.map_or((0, 0), |((length, _), number)| (*length, *number));
                let found = table.look_up(Ipv4Addr::from_bits(address));
                prop_assert_eq!((found.mask, found.r#as), expected);
            }
        }

        #[test]
        fn no_file_panics(file in vec(any::<u8>(), 0..200), tail in "[0-9./,\n#a-z\"]{0,80}") {
            let _ = RouteTable::read(&file);
            let _ = table(&tail);
        }
    }
}
