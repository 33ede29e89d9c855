//! Nothing is allocated for a record or a datagram once a collector is set up.

use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU64;
use xdprobe_export::{
    DatagramConfig, DatagramOutlet, Distribution, Exporter, FixedFormat, Moment, Pace,
    SocketOptions, UdpTransport,
};
use xdprobe_flow::{EndReason, FlowRecord, KeyV4, Volume};

#[test]
fn exporting_allocates_nothing() {
    let key = KeyV4 {
        source: Ipv4Addr::new(192, 0, 2, 1),
        destination: Ipv4Addr::new(198, 51, 100, 2),
        source_port: 1234,
        destination_port: 80,
        protocol: 6,
        tos: 0,
        point: 3,
    };
    let record = FlowRecord {
        key,
        volume: Volume {
            packets: 2,
            octets: 100,
        },
        first_ms: 1,
        last_ms: 2,
        tcp_flags: 0x1b,
        end: EndReason::Idle,
    };
    let batch = [record; 256];
    let receivers = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let pace = Pace {
        records_per_s: NonZeroU64::new(100_000),
        octets_per_s: None,
    };
    for distribution in [
        Distribution::Copy,
        Distribution::Balance,
        Distribution::Failover,
    ] {
        // All records have one key, so in balance one of the three gets all of them.
        let mut exporter = Exporter::new(distribution);
        for (receiver, pace) in receivers.iter().zip([Pace::default(), pace, pace]) {
            let to = receiver.local_addr().unwrap();
            let transport = UdpTransport::connect(to, &SocketOptions::default()).unwrap();
            let config = DatagramConfig {
                pace,
                keeps_records: distribution != Distribution::Copy,
                ..DatagramConfig::default()
            };
            let outlet = DatagramOutlet::new(transport, FixedFormat::default(), config).unwrap();
            exporter.add("here", Box::new(outlet));
        }
        let mut turns = |from_ms: u64, to_ms: u64| {
            for now_ms in from_ms..to_ms {
                let now = Moment {
                    uptime_ms: now_ms,
                    unix_ns: 0,
                };
                exporter.begin_turn(now_ms);
                exporter.flush_due(now);
                exporter.push(&batch, now);
                exporter.send(now_ms % 2 == 0, now);
                exporter.counters();
            }
        };
        // A thread that looks at tables for the first time gets a place to note that it does.
        turns(10, 11);
        let allocated = allocation_counter::measure(|| turns(11, 500));
        let datagrams: u64 = exporter
            .collectors()
            .map(|(_, _, counters)| counters.sent.datagrams)
            .sum();
        assert!(datagrams > 1_000, "{distribution:?}");
        assert_eq!(allocated.count_total, 0, "{distribution:?}");
    }
}
