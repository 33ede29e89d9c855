//! A program of the classic BPF machine, as libpcap compiles it from an expression, and the machine
//! that runs it.
//!
//! libpcap's own interpreter takes octets in one piece, and its binding passes the captured length
//! as the length on the wire. This one reads through [`Octets`], so that a frame can be shown
//! without its tags, and takes the length on the wire from its caller.
//!
//! Source: McCanne and Jacobson, *The BSD Packet Filter*, 1993; opcodes of linux/bpf_common.h.

use libc::sock_filter;

/// The octets that a program reads, big-endian; `None` beyond the end of what was captured.
pub trait Octets {
    /// The octet at an offset.
    fn octet(&self, at: u32) -> Option<u8>;
    /// Two octets from an offset on.
    fn half(&self, at: u32) -> Option<u16>;
    /// Four octets from an offset on.
    fn word(&self, at: u32) -> Option<u32>;
}

impl Octets for &[u8] {
    #[inline]
    fn octet(&self, at: u32) -> Option<u8> {
        self.get(at as usize).copied()
    }

    #[inline]
    fn half(&self, at: u32) -> Option<u16> {
        let octets = self.get(at as usize..)?.first_chunk()?;
        Some(u16::from_be_bytes(*octets))
    }

    #[inline]
    fn word(&self, at: u32) -> Option<u32> {
        let octets = self.get(at as usize..)?.first_chunk()?;
        Some(u32::from_be_bytes(*octets))
    }
}

/// A program whose jumps stay inside it.
pub struct Program {
    steps: Box<[Step]>,
    code: Box<[sock_filter]>,
}

impl Program {
    /// The program of these instructions.
    ///
    /// # Errors
    ///
    /// Which instruction is not one of classic BPF, or where the program may leave itself.
    pub fn new(code: Vec<sock_filter>) -> Result<Self, String> {
        let steps: Box<[Step]> = code
            .iter()
            .enumerate()
            .map(|(at, instruction)| {
                let step = Step::decode(*instruction);
                step.filter(|step| step.stays_within(at, code.len() - at - 1))
                    .ok_or_else(|| {
                        let sock_filter { code, jt, jf, k } = instruction;
                        format!("instruction {at} ({code} {jt} {jf} {k}) is not valid BPF")
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            steps,
            code: code.into(),
        })
    }

    /// The program that matches nothing.
    pub fn reject_all() -> Self {
        Self {
            steps: [Step::Return(0)].into(),
            code: [instruction(RET, 0)].into(),
        }
    }

    /// Its instructions in the kernel's form. A return other than 0 keeps the whole frame.
    pub fn code(&self) -> impl Iterator<Item = sock_filter> {
        self.code.iter().map(|&instruction| {
            let keeps = instruction.code == RET && instruction.k != 0;
            let k = if keeps { u32::MAX } else { instruction.k };
            sock_filter { k, ..instruction }
        })
    }

    /// What each instruction does.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the program returns something other than 0 for a frame. Reading beyond `octets` and
    /// dividing by 0 end it with 0.
    #[inline]
    pub fn matches(&self, octets: &impl Octets, wire_octets: u32) -> bool {
        self.run(octets, wire_octets).is_some_and(|kept| kept != 0)
    }

    fn run(&self, octets: &impl Octets, wire_octets: u32) -> Option<u32> {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut memory = [0_u32; MEMORY_WORDS];
        let (steps, mut next) = (&*self.steps, 0);
        loop {
            // By reference: a copy of the whole step is taken apart with shifts.
            let step = steps.get(next)?;
            next += 1;
            match *step {
                Step::LoadOctet(at) => a = octets.octet(at)?.into(),
                Step::LoadHalf(at) => a = octets.half(at)?.into(),
                Step::LoadWord(at) => a = octets.word(at)?,
                Step::LoadOctetAtX(k) => a = octets.octet(x.checked_add(k)?)?.into(),
                Step::LoadHalfAtX(k) => a = octets.half(x.checked_add(k)?)?.into(),
                Step::LoadWordAtX(k) => a = octets.word(x.checked_add(k)?)?,
                Step::IfEqual { k, yes, no } => next += choose(a == k, yes, no),
                Step::IfGreater { k, yes, no } => next += choose(a > k, yes, no),
                Step::IfGreaterOrEqual { k, yes, no } => next += choose(a >= k, yes, no),
                Step::IfCommonBit { k, yes, no } => next += choose(a & k != 0, yes, no),
                Step::LoadHeaderLength(at) => x = u32::from(octets.octet(at)? & 0x0f) << 2,
                Step::Compute(Operation::And, k) => a &= k,
                Step::Compute(operation, k) => a = operation.of(a, k)?,
                Step::Jump(count) => next = next.wrapping_add_signed(count as isize),
                Step::IfX { test, yes, no } => next += choose(test.holds(a, x), yes, no),
                Step::ComputeX(operation) => a = operation.of(a, x)?,
                Step::Negate => a = a.wrapping_neg(),
                Step::Set(k) => a = k,
                Step::SetX(k) => x = k,
                Step::Length => a = wire_octets,
                Step::LengthX => x = wire_octets,
                Step::Recall(slot) => a = memory[usize::from(slot) % MEMORY_WORDS],
                Step::RecallX(slot) => x = memory[usize::from(slot) % MEMORY_WORDS],
                Step::Store(slot) => memory[usize::from(slot) % MEMORY_WORDS] = a,
                Step::StoreX(slot) => memory[usize::from(slot) % MEMORY_WORDS] = x,
                Step::AToX => x = a,
                Step::XToA => a = x,
                Step::Return(k) => return Some(k),
                Step::ReturnA => return Some(a),
            }
        }
    }
}

/// `yes` or `no`, by a jump that the processor predicts. Without the hint the compiler makes it a
/// conditional move, and each instruction of the program waits for the comparison before it: twice
/// the time for a filter of a hundred hosts.
#[inline(always)]
fn choose(holds: bool, yes: u8, no: u8) -> usize {
    #[cold]
    fn unlikely() {}
    if holds {
        unlikely();
        yes.into()
    } else {
        no.into()
    }
}

/// Words of memory that a program has (BPF_MEMWORDS).
pub const MEMORY_WORDS: usize = 16;

/// One instruction: what it does with the accumulator A and the index register X. Jumps count from
/// the next instruction.
///
/// What most programs consist of has a variant for each width and test, so that the machine jumps
/// once for an instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A = the octet at an offset.
    LoadOctet(u32),
    /// A = two octets from an offset on.
    LoadHalf(u32),
    /// A = four octets from an offset on.
    LoadWord(u32),
    /// A = the octet at X plus an offset.
    LoadOctetAtX(u32),
    /// A = two octets from X plus an offset on.
    LoadHalfAtX(u32),
    /// A = four octets from X plus an offset on.
    LoadWordAtX(u32),
    /// X = the length of an IPv4 header whose first octet is at the offset.
    LoadHeaderLength(u32),
    /// A = a constant.
    Set(u32),
    /// X = a constant.
    SetX(u32),
    /// A = the frame's length on the wire.
    Length,
    /// X = the frame's length on the wire.
    LengthX,
    /// A = a word of memory.
    Recall(u8),
    /// X = a word of memory.
    RecallX(u8),
    /// A word of memory = A.
    Store(u8),
    /// A word of memory = X.
    StoreX(u8),
    /// A = A and a constant, combined.
    Compute(Operation, u32),
    /// A = A and X, combined.
    ComputeX(Operation),
    /// A = -A.
    Negate,
    /// X = A.
    AToX,
    /// A = X.
    XToA,
    /// Skips instructions. Backwards only in the loops of `protochain`, each round of which looks
    /// further into the packet.
    Jump(i32),
    /// Skips `yes` instructions if A is equal to `k`, else `no`.
    IfEqual {
        /// The constant.
        k: u32,
        /// Instructions skipped if it holds.
        yes: u8,
        /// Instructions skipped if it does not.
        no: u8,
    },
    /// Skips `yes` instructions if A is greater than `k`, else `no`.
    IfGreater {
        /// The constant.
        k: u32,
        /// Instructions skipped if it holds.
        yes: u8,
        /// Instructions skipped if it does not.
        no: u8,
    },
    /// Skips `yes` instructions if A is greater than or equal to `k`, else `no`.
    IfGreaterOrEqual {
        /// The constant.
        k: u32,
        /// Instructions skipped if it holds.
        yes: u8,
        /// Instructions skipped if it does not.
        no: u8,
    },
    /// Skips `yes` instructions if A has a bit in common with `k`, else `no`.
    IfCommonBit {
        /// The constant.
        k: u32,
        /// Instructions skipped if it holds.
        yes: u8,
        /// Instructions skipped if it does not.
        no: u8,
    },
    /// Skips `yes` instructions if A compares so with X, else `no`.
    IfX {
        /// The comparison.
        test: Test,
        /// Instructions skipped if it holds.
        yes: u8,
        /// Instructions skipped if it does not.
        no: u8,
    },
    /// Ends the program with a constant.
    Return(u32),
    /// Ends the program with A.
    ReturnA,
}

/// A comparison of A with a second operand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Test {
    /// Equal.
    Equal,
    /// Greater, unsigned.
    Greater,
    /// Greater or equal, unsigned.
    GreaterOrEqual,
    /// A common bit is set.
    CommonBit,
}

impl Test {
    #[inline]
    fn holds(self, a: u32, other: u32) -> bool {
        match self {
            Self::Equal => a == other,
            Self::Greater => a > other,
            Self::GreaterOrEqual => a >= other,
            Self::CommonBit => a & other != 0,
        }
    }
}

/// An operation of two operands, modulo 2^32.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Sum.
    Add,
    /// Difference.
    Subtract,
    /// Product.
    Multiply,
    /// Quotient; by 0 it ends the program.
    Divide,
    /// Remainder; by 0 it ends the program.
    Remainder,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Bitwise exclusive or.
    Xor,
    /// Shift to the left; 0 from 32 bits on.
    ShiftLeft,
    /// Shift to the right; 0 from 32 bits on.
    ShiftRight,
}

impl Operation {
    /// The result; `None` where it ends the program.
    #[inline]
    pub fn of(self, a: u32, other: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(other),
            Self::Subtract => a.wrapping_sub(other),
            Self::Multiply => a.wrapping_mul(other),
            Self::Divide => return a.checked_div(other),
            Self::Remainder => return a.checked_rem(other),
            Self::Or => a | other,
            Self::And => a & other,
            Self::Xor => a ^ other,
            Self::ShiftLeft => a.checked_shl(other).unwrap_or(0),
            Self::ShiftRight => a.checked_shr(other).unwrap_or(0),
        })
    }
}

// linux/bpf_common.h: the class, and the fields of each class.
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const W: u16 = 0x00;
const H: u16 = 0x08;
const B: u16 = 0x10;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const NEG: u16 = 0x80;
const X: u16 = 0x08;
const A: u16 = 0x10;
const TAX: u16 = 0x00;
const TXA: u16 = 0x80;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;

/// A program's instruction `LD` of two octets, at an offset.
pub const LOAD_HALF: u16 = LD | H | ABS;
/// A program's instruction that compares A with a constant.
pub const BRANCH_IF_EQUAL: u16 = JMP | JEQ;
/// A program's instruction that ends it with a constant.
pub const RETURN: u16 = RET;

/// An instruction without jumps.
pub const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

impl Step {
    /// What an instruction does; `None` if it is not one of classic BPF.
    fn decode(instruction: sock_filter) -> Option<Self> {
        let sock_filter { code, jt, jf, k } = instruction;
        let slot = || {
            u8::try_from(k)
                .ok()
                .filter(|&slot| usize::from(slot) < MEMORY_WORDS)
        };
        Some(match code & 0x07 {
            LD => match (code & 0xe0, code & 0x18) {
                (ABS, B) => Self::LoadOctet(k),
                (ABS, H) => Self::LoadHalf(k),
                (ABS, W) => Self::LoadWord(k),
                (IND, B) => Self::LoadOctetAtX(k),
                (IND, H) => Self::LoadHalfAtX(k),
                (IND, W) => Self::LoadWordAtX(k),
                (IMM, W) => Self::Set(k),
                (MEM, W) => Self::Recall(slot()?),
                (LEN, W) => Self::Length,
                _ => return None,
            },
            LDX => match (code & 0xe0, code & 0x18) {
                (MSH, B) => Self::LoadHeaderLength(k),
                (IMM, W) => Self::SetX(k),
                (MEM, W) => Self::RecallX(slot()?),
                (LEN, W) => Self::LengthX,
                _ => return None,
            },
            ST if code == ST => Self::Store(slot()?),
            STX if code == STX => Self::StoreX(slot()?),
            ALU if code & 0xf0 == NEG => Self::Negate,
            ALU => {
                let operation = Operation::decode(code & 0xf0)?;
                if code & X == 0 {
                    Self::Compute(operation, k)
                } else {
                    Self::ComputeX(operation)
                }
            }
            JMP if code & 0xf0 == JA => Self::Jump(k.cast_signed()),
            JMP => {
                let (test, yes, no) = (Test::decode(code & 0xf0)?, jt, jf);
                match test {
                    test if code & X != 0 => Self::IfX { test, yes, no },
                    Test::Equal => Self::IfEqual { k, yes, no },
                    Test::Greater => Self::IfGreater { k, yes, no },
                    Test::GreaterOrEqual => Self::IfGreaterOrEqual { k, yes, no },
                    Test::CommonBit => Self::IfCommonBit { k, yes, no },
                }
            }
            RET if code == RET => Self::Return(k),
            RET if code == RET | A => Self::ReturnA,
            MISC if code == MISC | TAX => Self::AToX,
            MISC if code == MISC | TXA => Self::XToA,
            _ => return None,
        })
    }

    /// Whether it leads to an instruction of the program, of which so many precede and follow it.
    fn stays_within(self, preceding: usize, following: usize) -> bool {
        match self {
            Self::Return(_) | Self::ReturnA => true,
            Self::Jump(count) => match usize::try_from(count) {
                Ok(count) => count < following,
                Err(_) => count.unsigned_abs() as usize <= preceding + 1,
            },
            Self::IfEqual { yes, no, .. }
            | Self::IfGreater { yes, no, .. }
            | Self::IfGreaterOrEqual { yes, no, .. }
            | Self::IfCommonBit { yes, no, .. }
            | Self::IfX { yes, no, .. } => usize::from(yes.max(no)) < following,
            _ => following > 0,
        }
    }
}

impl Operation {
    fn decode(field: u16) -> Option<Self> {
        Some(match field {
            0x00 => Self::Add,
            0x10 => Self::Subtract,
            0x20 => Self::Multiply,
            0x30 => Self::Divide,
            0x40 => Self::Or,
            0x50 => Self::And,
            0x60 => Self::ShiftLeft,
            0x70 => Self::ShiftRight,
            0x90 => Self::Remainder,
            0xa0 => Self::Xor,
            _ => return None,
        })
    }
}

impl Test {
    fn decode(field: u16) -> Option<Self> {
        match field {
            JEQ => Some(Self::Equal),
            0x20 => Some(Self::Greater),
            0x30 => Some(Self::GreaterOrEqual),
            0x40 => Some(Self::CommonBit),
            _ => None,
        }
    }
}
