//! Comma-separated values of every field of the version, with the names and the order of
//! `flow-export -f2`.

use super::line::Line;
use crate::record::StoredRecord;
use xdprobe_netflow::Version;

/// The line with the names of the columns.
pub(super) fn heading(version: Version) -> String {
    let engine = if version == Version::V1 {
        ""
    } else {
        ",engine_type,engine_id"
    };
    let masks = if version == Version::V1 {
        ""
    } else {
        ",src_mask,dst_mask,src_as,dst_as"
    };
    let router = if version == Version::V7 {
        ",router_sc"
    } else {
        ""
    };
    format!(
        "#:unix_secs,unix_nsecs,sysuptime,exaddr,dpkts,doctets,first,last{engine},srcaddr,dstaddr,\
         nexthop,input,output,\
         srcport,dstport,prot,tos,tcp_flags{masks}{router}\n"
    )
}

/// Appends the record as a line of values.
pub(super) fn write(line: &mut Line, version: Version, record: &StoredRecord) {
    line.number(record.unix_s);
    number(line, record.unix_ns);
    number(line, record.sys_uptime_ms);
    address(line, record.exporter);
    number(line, record.packets);
    number(line, record.octets);
    number(line, record.first_ms);
    number(line, record.last_ms);
    if version != Version::V1 {
        number(line, record.engine_type);
        number(line, record.engine_id);
    }
    address(line, record.source);
    address(line, record.destination);
    address(line, record.next_hop);
    number(line, record.input);
    number(line, record.output);
    number(line, record.source_port);
    number(line, record.destination_port);
    number(line, record.protocol);
    number(line, record.tos);
    number(line, record.tcp_flags);
    if version != Version::V1 {
        number(line, record.source_mask);
        number(line, record.destination_mask);
        number(line, record.source_as);
        number(line, record.destination_as);
    }
    if version == Version::V7 {
        address(line, record.router);
    }
    line.text("\n");
}

fn number(line: &mut Line, number: impl itoa::Integer) {
    line.text(",");
    line.number(number);
}

fn address(line: &mut Line, address: std::net::Ipv4Addr) {
    line.text(",");
    line.address(address);
}
