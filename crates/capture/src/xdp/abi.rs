//! The user-space side of `abi.h`, which documents each field.

use aya::Pod;
use std::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Numbers, lengths and offsets as the C compiler sees them, written by build.rs.
#[expect(
    non_upper_case_globals,
    reason = "the constants have the names of the fields"
)]
mod header {
    include!(concat!(env!("OUT_DIR"), "/abi_layout.rs"));
}

pub(super) use header::{
    BELL_OCTETS, COUNTER_NO_SOCKET, COUNTER_REDIRECTED, COUNTER_SAMPLED_OUT, COUNTERS,
};

/// `struct sampling`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub(super) struct Sampling {
    pub interval: u32,
    pub random: u32,
}

/// `struct rest`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub(super) struct Rest {
    pub number: u32,
    pub entries: u32,
    pub entry_octets: u32,
}

/// `struct stamp`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub(super) struct Stamp {
    pub monotonic_ns: u64,
    pub rest: u32,
    pub unused: u32,
}

// SAFETY: Pod requires that any octets are a value, which `FromBytes` proves; `IntoBytes` proves
// that there is no padding to leak to the kernel.
unsafe impl Pod for Sampling {}
// SAFETY: as above.
unsafe impl Pod for Rest {}

/// Refuses to compile unless a struct here and its struct in `abi.h` have the same length, and each
/// field the same offset and length.
macro_rules! assert_same_layout {
    ($type:ident, $c:ident { $($field:ident),+ }) => {
        const _: () = {
            assert!(
                size_of::<$type>() == header::$c::OCTETS,
                concat!("length of struct ", stringify!($c), " differs from abi.h")
            );
            $(
                assert!(
                    offset_of!($type, $field) == header::$c::$field.0
                        && octets_of(|value: &$type| &value.$field) == header::$c::$field.1,
                    concat!(stringify!($c), ".", stringify!($field), " differs from abi.h")
                );
            )+
        };
    };
}

const fn octets_of<Struct, Field>(_: fn(&Struct) -> &Field) -> usize {
    size_of::<Field>()
}

assert_same_layout!(Sampling, sampling { interval, random });
assert_same_layout!(
    Rest,
    rest {
        number,
        entries,
        entry_octets
    }
);
assert_same_layout!(
    Stamp,
    stamp {
        monotonic_ns,
        rest,
        unused
    }
);
