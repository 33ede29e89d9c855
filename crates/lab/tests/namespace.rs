//! Namespaces contain what a test puts into them, and are deleted afterwards.

use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use xdprobe_lab::interface::mtu;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::test_collector::{Keep, TestCollector};

const TOOLS: [&str; 2] = ["ip", "ethtool"];

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

#[test]
fn each_has_a_name_of_its_own_and_is_deleted_with_its_owner() {
    if !are_met(&TOOLS) {
        return;
    }
    let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    assert_ne!(one.name(), other.name());
    let name = one.name().to_owned();
    assert!(exists(&name));
    let panic = catch_unwind(AssertUnwindSafe(move || {
        let _one = one;
        panic!("as a failing test does");
    }));
    assert!(panic.is_err() && !exists(&name));
}

#[test]
fn those_of_dead_processes_are_deleted() {
    if !are_met(&TOOLS) {
        return;
    }
    // The process has ended, so that its id is free. This process has already deleted namespaces of
    // dead processes, in `are_met`: another process has to do it.
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let stale = format!("xdplab-{}-0", dead.id());
    assert!(
        Command::new("ip")
            .args(["netns", "add", &stale])
            .status()
            .unwrap()
            .success()
    );
    let test = "each_has_a_name_of_its_own_and_is_deleted_with_its_owner";
    let swept = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(swept.unwrap().success());
    assert!(!exists(&stale));
}

#[test]
fn veth_pairs_have_their_queues_and_their_mtu() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = Namespace::new().unwrap();
    namespace
        .veth(
            "one",
            "other",
            VethOptions {
                queues: 2,
                mtu: 9000,
            },
        )
        .unwrap();
    let features = namespace.output("ethtool", &["-k", "other"]).unwrap();
    assert!(
        features.contains("generic-receive-offload: on"),
        "{features}"
    );
    let channels = namespace.output("ethtool", &["-l", "other"]).unwrap();
    let current = channels.split_once("Current").unwrap().1;
    assert!(
        current.contains("RX:\t\t2") && current.contains("TX:\t\t2"),
        "{channels}"
    );
    assert_eq!(namespace.run(|| mtu("other").unwrap()).unwrap(), 9000);
    assert!(
        mtu("other").is_err(),
        "the interface must not be in the test's own namespace"
    );
}

#[test]
fn interfaces_can_be_handed_to_another_namespace() {
    if !are_met(&TOOLS) {
        return;
    }
    let (here, there) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    here.veth("near", "far", VethOptions::default()).unwrap();
    here.hand_over("far", &there).unwrap();
    here.address("near", "10.1.0.1/24").unwrap();
    there.address("far", "10.1.0.2/24").unwrap();
    let collector = there
        .run(|| TestCollector::bind("10.1.0.2:0".parse().unwrap(), Keep::Counts).unwrap())
        .unwrap();
    here.run(|| {
        UdpSocket::bind("10.1.0.1:0")
            .unwrap()
            .send_to(&[5; 3], collector.address())
            .unwrap()
    })
    .unwrap();
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(collector.stop().unwrap().undecoded.len(), 1);
}

#[test]
fn a_panic_inside_comes_out() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = Namespace::new().unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| namespace.run(|| panic!("inside"))));
    assert_eq!(*panic.err().unwrap().downcast::<&str>().unwrap(), "inside");
}
