//! Nothing is allocated for a record or a datagram once a collector is set up.

use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU64;
use xdprobe_export::{
    Collector, CollectorConfig, Distribution, Exporter, Moment, Pace, SocketOptions, UdpTransport,
};
use xdprobe_flow::{EndReason, FlowKey, FlowRecord};

#[test]
fn exporting_allocates_nothing() {
    let key = FlowKey {
        source: Ipv4Addr::new(192, 0, 2, 1),
        destination: Ipv4Addr::new(198, 51, 100, 2),
        source_port: 1234,
        destination_port: 80,
        protocol: 6,
        tos: 0,
        input: 3,
    };
    let record = FlowRecord {
        key,
        packets: 2,
        octets: 100,
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
        // All records have one key: the balanced share of it may be anybody's.
        let collectors =
            receivers
                .iter()
                .zip([Pace::default(), pace, pace])
                .map(|(receiver, pace)| {
                    let transport = UdpTransport::connect(
                        receiver.local_addr().unwrap(),
                        &SocketOptions::default(),
                    )
                    .unwrap();
                    let config = CollectorConfig {
                        pace,
                        ..CollectorConfig::default()
                    };
                    Collector::new("here", transport, config).unwrap()
                });
        let mut exporter = Exporter::new(distribution, collectors.collect());
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
            }
        };
        // A thread that looks at tables for the first time gets a place to note that it does.
        turns(10, 11);
        let allocated = allocation_counter::measure(|| turns(11, 500));
        let datagrams: u64 = exporter
            .collectors()
            .iter()
            .map(|to| to.counters().sent.datagrams)
            .sum();
        assert!(datagrams > 1_000, "{distribution:?}");
        assert_eq!(allocated.count_total, 0, "{distribution:?}");
    }
}
