//! One JSON object a line. Names are those of [`StoredRecord`], times are UTC in RFC 3339; fields
//! that the version lacks are left out.

use super::line::Line;
use crate::record::StoredRecord;
use xdprobe_netflow::Version;

/// Appends the record as one object.
pub(super) fn write(line: &mut Line, version: Version, record: &StoredRecord) {
    line.text("{\"start\":");
    time(line, record.unix_ms_of(record.first_ms));
    line.text(",\"end\":");
    time(line, record.unix_ms_of(record.last_ms));
    number(line, ",\"duration_ms\":", record.duration_ms());
    address(line, ",\"exporter\":", record.exporter);
    address(line, ",\"source\":", record.source);
    address(line, ",\"destination\":", record.destination);
    address(line, ",\"next_hop\":", record.next_hop);
    number(line, ",\"input\":", record.input);
    number(line, ",\"output\":", record.output);
    number(line, ",\"protocol\":", record.protocol);
    number(line, ",\"source_port\":", record.source_port);
    number(line, ",\"destination_port\":", record.destination_port);
    number(line, ",\"packets\":", record.packets);
    number(line, ",\"octets\":", record.octets);
    number(line, ",\"tos\":", record.tos);
    number(line, ",\"tcp_flags\":", record.tcp_flags);
    if version != Version::V1 {
        number(line, ",\"source_mask\":", record.source_mask);
        number(line, ",\"destination_mask\":", record.destination_mask);
        number(line, ",\"source_as\":", record.source_as);
        number(line, ",\"destination_as\":", record.destination_as);
        number(line, ",\"engine_type\":", record.engine_type);
        number(line, ",\"engine_id\":", record.engine_id);
    }
    if version == Version::V7 {
        address(line, ",\"router\":", record.router);
    }
    line.text("}\n");
}

fn number(line: &mut Line, name: &str, number: impl itoa::Integer) {
    line.text(name);
    line.number(number);
}

fn address(line: &mut Line, name: &str, address: std::net::Ipv4Addr) {
    line.text(name);
    line.text("\"");
    line.address(address);
    line.text("\"");
}

/// `"YYYY-MM-DDTHH:MM:SS.mmmZ"`.
fn time(line: &mut Line, unix_ms: i64) {
    let (date, clock) = crate::zone::utc(unix_ms.div_euclid(1000));
    line.text("\"");
    line.zeros(date, 4);
    line.text("-");
    line.two(clock.month, b'-');
    line.two(clock.day, b'T');
    line.two(clock.hour, b':');
    line.two(clock.minute, b':');
    line.two(clock.second, b'.');
    line.zeros(unix_ms.rem_euclid(1000), 3);
    line.text("Z\"");
}
