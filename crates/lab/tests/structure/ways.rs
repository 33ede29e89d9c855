//! Shortest ways in a graph.

use std::collections::{BTreeMap, VecDeque};

/// Every node that can be reached from `start`, with the shortest way there, both ends included.
pub fn shortest_ways<N: Ord + Copy>(start: N, next: impl Fn(&N) -> Vec<N>) -> BTreeMap<N, Vec<N>> {
    let mut ways = BTreeMap::from([(start, vec![start])]);
    let mut waiting = VecDeque::from([start]);
    while let Some(node) = waiting.pop_front() {
        for to in next(&node) {
            if !ways.contains_key(&to) {
                let way = [&ways[&node][..], &[to]].concat();
                ways.insert(to, way);
                waiting.push_back(to);
            }
        }
    }
    ways
}
