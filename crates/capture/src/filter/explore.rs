//! What a filter can do, found without running it: whether it can match a packet of which a part is
//! known, and how far into a frame it looks.
//!
//! Every way through the program is followed at once. A value is known bit by bit; where ways meet,
//! only what they agree on stays known. So "it cannot match" is certain, and "it can" is not.
//! Nothing is found out about a program with a loop (`protochain`).

use super::program::{MEMORY_WORDS, Operation, Program, Step, Test};

/// What is known of a packet, octet by octet: the value, and a mask of the bits that are known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known(Vec<(u8, u8)>);

impl Known {
    /// A packet of which nothing is known.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The same with unknown octets added up to an offset.
    #[must_use]
    pub fn up_to(mut self, at: usize) -> Self {
        self.0.resize(at.max(self.0.len()), (0, 0));
        self
    }

    /// The same with these octets at an offset.
    #[must_use]
    pub fn with(mut self, at: usize, octets: &[u8]) -> Self {
        self = self.up_to(at + octets.len());
        for (place, &octet) in self.0[at..].iter_mut().zip(octets) {
            *place = (octet, 0xff);
        }
        self
    }

    /// The same with the bits of `mask` at an offset.
    #[must_use]
    pub fn with_bits(mut self, at: usize, value: u8, mask: u8) -> Self {
        self = self.up_to(at + 1);
        self.0[at] = (value & mask, mask);
        self
    }

    /// The integer of 1, 2 or 4 octets from an offset on.
    fn load(&self, Load { octets, at }: Load) -> Bits {
        let octet = |at: u32| self.0.get(at as usize).copied().unwrap_or((0, 0));
        (0..octets).fold(Bits::of(0), |bits, n| {
            let (value, mask) = octet(at.saturating_add(n));
            Bits {
                value: bits.value << 8 | u32::from(value),
                known: bits.known << 8 | u32::from(mask),
            }
        })
    }
}

/// What was found out about a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Findings {
    /// Whether it can match a packet of which that much is known.
    pub can_match: bool,
    /// The octets that it may look at, from the first on.
    pub reach_octets: u64,
}

/// Follows every way of `program` through a packet of which `packet` is known.
pub fn explore(program: &Program, packet: &Known) -> Findings {
    let steps = program.steps();
    let loops = |step: &Step| matches!(step, Step::Jump(..0));
    if steps.iter().any(loops) {
        return Findings {
            can_match: true,
            reach_octets: u64::MAX,
        };
    }
    let mut states: Vec<Option<State>> = vec![None; steps.len()];
    states[0] = Some(State::default());
    let mut found = Findings {
        can_match: false,
        reach_octets: 0,
    };
    for (at, &step) in steps.iter().enumerate() {
        let Some(state) = states[at].take() else {
            continue;
        };
        let mut lead_to = |skipped: usize, state: State| {
            let place = &mut states[at + 1 + skipped];
            *place = Some(match place.take() {
                Some(other) => other.met(&state),
                None => state,
            });
        };
        if let Some((test, other, yes, no)) = branch_of(step, state.x) {
            let (can_hold, can_fail) = state.a.outcomes(test, other);
            if can_hold {
                let a = if test == Test::Equal { other } else { state.a };
                lead_to(usize::from(yes), State { a, ..state.clone() });
            }
            if can_fail {
                lead_to(usize::from(no), state);
            }
            continue;
        }
        match step {
            Step::Return(k) => found.can_match |= k != 0,
            Step::ReturnA => found.can_match |= state.a.max() != 0,
            Step::Jump(count) => {
                let count = usize::try_from(count).expect("loops were left aside");
                lead_to(count, state);
            }
            other => {
                found.reach_octets = found.reach_octets.max(state.reach_octets(other));
                lead_to(0, state.after(other, packet));
            }
        }
    }
    found
}

/// So many octets from an offset on.
#[derive(Clone, Copy)]
struct Load {
    octets: u32,
    at: u32,
}

/// What an instruction loads at a fixed offset.
fn load_of(step: Step) -> Option<Load> {
    match step {
        Step::LoadOctet(at) => Some(Load { octets: 1, at }),
        Step::LoadHalf(at) => Some(Load { octets: 2, at }),
        Step::LoadWord(at) => Some(Load { octets: 4, at }),
        _ => None,
    }
}

/// What an instruction loads at an offset from X.
fn load_at_x_of(step: Step) -> Option<Load> {
    match step {
        Step::LoadOctetAtX(at) => Some(Load { octets: 1, at }),
        Step::LoadHalfAtX(at) => Some(Load { octets: 2, at }),
        Step::LoadWordAtX(at) => Some(Load { octets: 4, at }),
        _ => None,
    }
}

/// The comparison of an instruction with a constant or X, and what it skips.
fn branch_of(step: Step, x: Bits) -> Option<(Test, Bits, u8, u8)> {
    match step {
        Step::IfEqual { k, yes, no } => Some((Test::Equal, Bits::of(k), yes, no)),
        Step::IfGreater { k, yes, no } => Some((Test::Greater, Bits::of(k), yes, no)),
        Step::IfGreaterOrEqual { k, yes, no } => Some((Test::GreaterOrEqual, Bits::of(k), yes, no)),
        Step::IfCommonBit { k, yes, no } => Some((Test::CommonBit, Bits::of(k), yes, no)),
        Step::IfX { test, yes, no } => Some((test, x, yes, no)),
        _ => None,
    }
}

/// What is known of the machine before an instruction. At the start everything is 0.
#[derive(Clone, Debug)]
struct State {
    a: Bits,
    x: Bits,
    memory: [Bits; MEMORY_WORDS],
}

impl Default for State {
    fn default() -> Self {
        Self {
            a: Bits::of(0),
            x: Bits::of(0),
            memory: [Bits::of(0); MEMORY_WORDS],
        }
    }
}

impl State {
    /// What is known where two ways meet.
    fn met(&self, other: &Self) -> Self {
        let mut memory = self.memory;
        for (one, other) in memory.iter_mut().zip(&other.memory) {
            *one = one.met(*other);
        }
        Self {
            a: self.a.met(other.a),
            x: self.x.met(other.x),
            memory,
        }
    }

    /// The octets that an instruction may look at.
    fn reach_octets(&self, step: Step) -> u64 {
        if let Some(Load { octets, at }) = load_of(step) {
            u64::from(at) + u64::from(octets)
        } else if let Some(Load { octets, at }) = load_at_x_of(step) {
            u64::from(self.x.max()) + u64::from(at) + u64::from(octets)
        } else if let Step::LoadHeaderLength(at) = step {
            u64::from(at) + 1
        } else {
            0
        }
    }

    /// What is known after an instruction that goes on with the next.
    fn after(mut self, step: Step, packet: &Known) -> Self {
        if let Some(load) = load_of(step) {
            self.a = packet.load(load);
            return self;
        }
        if let Some(Load { octets, at }) = load_at_x_of(step) {
            self.a = match self.x.exact() {
                Some(x) => packet.load(Load {
                    octets,
                    at: x.saturating_add(at),
                }),
                None => Bits::up_to((1 << (8 * octets)) - 1),
            };
            return self;
        }
        match step {
            Step::LoadHeaderLength(at) => {
                let octet = packet.load(Load { octets: 1, at });
                self.x = octet
                    .bits(Operation::And, 0x0f)
                    .bits(Operation::ShiftLeft, 2);
            }
            Step::Set(k) => self.a = Bits::of(k),
            Step::SetX(k) => self.x = Bits::of(k),
            Step::Length => self.a = Bits::UNKNOWN,
            Step::LengthX => self.x = Bits::UNKNOWN,
            Step::Recall(slot) => self.a = self.memory[usize::from(slot)],
            Step::RecallX(slot) => self.x = self.memory[usize::from(slot)],
            Step::Store(slot) => self.memory[usize::from(slot)] = self.a,
            Step::StoreX(slot) => self.memory[usize::from(slot)] = self.x,
            Step::Compute(operation, k) => self.a = self.a.bits(operation, k),
            Step::ComputeX(operation) => {
                self.a = match self.x.exact() {
                    Some(x) => self.a.bits(operation, x),
                    None => self.a.within(operation, self.x),
                };
            }
            Step::Negate => {
                self.a = self
                    .a
                    .exact()
                    .map_or(Bits::UNKNOWN, |a| Bits::of(a.wrapping_neg()));
            }
            Step::AToX => self.x = self.a,
            Step::XToA => self.a = self.x,
            _ => unreachable!("loads were handled above, and the others do not go on"),
        }
        self
    }
}

/// A value of which some bits are known; the others are 0 in `value`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bits {
    value: u32,
    known: u32,
}

impl Bits {
    const UNKNOWN: Self = Self { value: 0, known: 0 };

    const fn of(value: u32) -> Self {
        Self {
            value,
            known: u32::MAX,
        }
    }

    /// Any value up to `max`.
    fn up_to(max: u64) -> Self {
        match u32::try_from(max) {
            Ok(max) => Self {
                value: 0,
                known: !u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0),
            },
            Err(_) => Self::UNKNOWN,
        }
    }

    fn exact(self) -> Option<u32> {
        (self.known == u32::MAX).then_some(self.value)
    }

    fn max(self) -> u32 {
        self.value | !self.known
    }

    fn met(self, other: Self) -> Self {
        let known = self.known & other.known & !(self.value ^ other.value);
        Self {
            value: self.value & known,
            known,
        }
    }

    /// The result of an operation with a constant.
    fn bits(self, operation: Operation, k: u32) -> Self {
        if let Some(value) = self.exact() {
            // Where it ends the program, what comes after is not reached.
            return operation.of(value, k).map_or(Self::UNKNOWN, Self::of);
        }
        let Self { value, known } = self;
        match operation {
            Operation::And => Self {
                value: value & k,
                known: known | !k,
            },
            Operation::Or => Self {
                value: value | k,
                known: known | k,
            },
            Operation::Xor => Self {
                value: (value ^ k) & known,
                known,
            },
            Operation::ShiftLeft => Self {
                value: value.checked_shl(k).unwrap_or(0),
                known: !(!known).checked_shl(k).unwrap_or(0),
            },
            Operation::ShiftRight => Self {
                value: value.checked_shr(k).unwrap_or(0),
                known: !(!known).checked_shr(k).unwrap_or(0),
            },
            _ => self.within(operation, Self::of(k)),
        }
    }

    /// The result of an operation, by the largest values of both operands.
    fn within(self, operation: Operation, other: Self) -> Self {
        let (a, b) = (u64::from(self.max()), u64::from(other.max()));
        match operation {
            Operation::Add => Self::up_to(a + b),
            Operation::Multiply => Self::up_to(a * b),
            Operation::Divide | Operation::ShiftRight => Self::up_to(a),
            Operation::Remainder => Self::up_to(a.min(b)),
            Operation::And => Self::up_to(a.min(b)),
            Operation::Or | Operation::Xor => Self::up_to(a.max(b)),
            Operation::Subtract | Operation::ShiftLeft => Self::UNKNOWN,
        }
    }

    /// Whether a comparison can hold, and whether it can fail.
    fn outcomes(self, test: Test, other: Self) -> (bool, bool) {
        let (known, differ) = (self.known & other.known, self.value ^ other.value);
        let common = self.value & other.value;
        let (low, high) = (self.value, self.max());
        match test {
            Test::Equal => (known & differ == 0, known != u32::MAX || differ != 0),
            Test::Greater => (high > other.value, low <= other.max()),
            Test::GreaterOrEqual => (high >= other.value, low < other.max()),
            Test::CommonBit => (self.max() & other.max() != 0, common == 0),
        }
    }
}
