//! One step of a packet's way, for callgrind: `instructions STEP COUNT` does the step for COUNT
//! packets, records or publications. Without arguments it prints the names of the steps.
//! `scripts/bench-instructions` runs it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its result and its errors"
)]

use std::process::ExitCode;
use xdprobe_benches::steps::STEPS;

/// Packets or records at a time.
const CHUNK: usize = 1_920;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.as_slice() {
        [] => STEPS.iter().for_each(|step| println!("{}", step.name)),
        [name, count] => {
            let (Some(step), Ok(count)) = (
                STEPS.iter().find(|step| step.name == name),
                count.parse::<usize>(),
            ) else {
                eprintln!(
                    "instructions: found '{name} {count}', expected STEP COUNT; run it without \
                     arguments for the names of the steps"
                );
                return ExitCode::from(2);
            };
            let mut run = (step.make)();
            // As many records at once as there are batches for.
            (0..count.div_ceil(CHUNK)).for_each(|_| run(CHUNK));
        }
        _ => {
            eprintln!(
                "instructions: found {} arguments, expected STEP COUNT",
                arguments.len()
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
