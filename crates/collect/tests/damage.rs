//! Damaged files: nothing panics, records before the damage are delivered, and the damage is
//! reported on one line.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use jiff::tz::TimeZone;
use proptest::collection::vec;
use proptest::prelude::*;
use xdprobe_collect::header::{FLAG_COMPRESS, FileHeader};
use xdprobe_collect::print::{PrintFormat, Printer};
use xdprobe_collect::{
    ByteOrder, FlowFileReader, FlowFileWriter, LocalZone, RECORD_OCTETS_MAX, ReadError,
    StoredRecord, Version, WriterOptions,
};

/// A complete file in memory, and its records.
fn file(
    version: Version,
    order: ByteOrder,
    level: u32,
    count: u32,
) -> (Vec<u8>, Vec<StoredRecord>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.ft");
    let options = WriterOptions {
        version,
        order,
        level,
        ..WriterOptions::plain_v5(1_000_000_000)
    };
    let mut writer = FlowFileWriter::create(&path, &options).unwrap();
    let records: Vec<StoredRecord> = (1..=count)
        .map(|number| StoredRecord {
            unix_s: 1_000_000_000,
            source: number.wrapping_mul(0x9e37_79b1).into(),
            packets: number,
            octets: number * 64,
            ..StoredRecord::default()
        })
        .collect();
    for record in &records {
        writer.push(record).unwrap();
    }
    writer.finish(1_000_000_060).unwrap();
    (std::fs::read(path).unwrap(), records)
}

fn any_file() -> impl Strategy<Value = (Vec<u8>, Vec<StoredRecord>)> {
    (
        0usize..3,
        any::<bool>(),
        prop_oneof![Just(0u32), Just(6)],
        1u32..200,
    )
        .prop_map(|(version, little, level, count)| {
            let order = if little {
                ByteOrder::Little
            } else {
                ByteOrder::Big
            };
            file(Version::ALL[version], order, level, count)
        })
}

/// The records that can be read, and the error if there is one.
fn read(octets: &[u8]) -> (Vec<StoredRecord>, Option<ReadError>) {
    let reader = match FlowFileReader::new(octets) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut records = Vec::new();
    let mut error = None;
    for item in reader {
        assert!(error.is_none(), "the reader went on after an error");
        match item {
            Ok(record) => records.push(record),
            Err(found) => error = Some(found),
        }
    }
    let (copied, error_of_blocks) = read_blocks(octets);
    assert_eq!(copied, records, "blocks have other records");
    let text = |error: &Option<ReadError>| error.as_ref().map(ToString::to_string);
    assert_eq!(text(&error_of_blocks), text(&error));
    (records, error)
}

/// As `read`, by blocks of records as they are in the file.
fn read_blocks(octets: &[u8]) -> (Vec<StoredRecord>, Option<ReadError>) {
    let mut reader = FlowFileReader::new(octets).unwrap();
    let (version, order) = (reader.header().version, reader.header().order);
    let mut records = Vec::new();
    let mut error = None;
    while let Some(item) = reader.next_block() {
        assert!(error.is_none(), "the reader went on after an error");
        match item {
            Ok(block) => records.extend(
                block
                    .chunks(StoredRecord::encoded_octets(version))
                    .map(|record| StoredRecord::decode(version, order, record).unwrap()),
            ),
            Err(found) => error = Some(found),
        }
    }
    assert_eq!(reader.records(), records.len() as u64);
    (records, error)
}

fn is_one_line_with_an_offset(error: &ReadError) -> bool {
    let text = error.to_string();
    let names_a_place = text.contains("offset") || matches!(error, ReadError::Header(_));
    !text.contains('\n') && names_a_place
}

proptest! {
    #[test]
    fn a_cut_file_delivers_its_whole_records_and_the_offset_of_its_end(
        (octets, records) in any_file(),
        at in any::<prop::sample::Index>(),
    ) {
        let cut = &octets[..at.index(octets.len())];
        let (found, error) = read(cut);
        prop_assert_eq!(&found[..], &records[..found.len()]);
        let error = error.unwrap();
        prop_assert!(is_one_line_with_an_offset(&error), "{}", error);
        if let ReadError::Cut { offset, .. } | ReadError::Count { offset, .. } = error {
            prop_assert_eq!(offset, cut.len() as u64);
        }
        // Every whole record of a plain file is delivered.
        if let Ok((header, start)) = FileHeader::read(&mut &*cut) && !header.has(FLAG_COMPRESS) {
            let record_octets = StoredRecord::encoded_octets(header.version);
            prop_assert_eq!(found.len(), (cut.len() - start) / record_octets);
        }
    }

    #[test]
    fn flipped_bits_never_panic_and_reach_no_record_before_them(
        (octets, records) in any_file(),
        flips in vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let mut damaged = octets.clone();
        for (index, bit) in &flips {
            damaged[index.index(octets.len())] ^= 1 << bit;
        }
        let differs = |(before, after)| before != after;
        let first = octets.iter().zip(&damaged).position(differs).unwrap_or(octets.len());
        let (header, start) = FileHeader::read(&mut &octets[..]).unwrap();
        let (found, error) = read(&damaged);
        prop_assert!(error.as_ref().is_none_or(is_one_line_with_an_offset), "{:?}", error);
        if !header.has(FLAG_COMPRESS) && first >= start {
            let untouched = (first - start) / StoredRecord::encoded_octets(header.version);
            prop_assert_eq!(&found[..untouched], &records[..untouched]);
            prop_assert_eq!(found.len(), records.len());
        } else if header.has(FLAG_COMPRESS) && first >= start && damaged != octets {
            // The checksum of the compressed stream is wrong, unless only padding bits were
            // flipped.
            prop_assert!(error.is_some() || found == records);
        }
    }

    #[test]
    fn random_octets_after_a_header_never_panic(
        compressed: bool,
        done: bool,
        body in vec(any::<u8>(), 0..3000),
    ) {
        let mut header = FileHeader::new(Version::V5, ByteOrder::Big);
        header.flags = if compressed { FLAG_COMPRESS } else { 0 } | u32::from(done);
        let (_, error) = read(&[header.encode(), body].concat());
        prop_assert!(error.as_ref().is_none_or(is_one_line_with_an_offset), "{:?}", error);
    }

    #[test]
    fn every_format_prints_every_record(octets in vec(any::<u8>(), RECORD_OCTETS_MAX), wide: bool) {
        let record = StoredRecord::decode(Version::V7, ByteOrder::Big, &octets).unwrap();
        let numbered = (0..8).filter_map(PrintFormat::from_number);
        for format in numbered.chain([PrintFormat::Json, PrintFormat::Csv]) {
            let zone = LocalZone::new(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
            let mut text = Vec::new();
            let mut printer = Printer::new(format, wide, Version::V7, zone, &mut text).unwrap();
            printer.print(&record).unwrap();
            printer.flush().unwrap();
            let text = String::from_utf8(text).unwrap();
            prop_assert!(text.ends_with('\n'), "{:?}: {}", format, text);
        }
    }
}
