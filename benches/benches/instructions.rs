//! One step of a packet's way so many times over, for callgrind: `instructions STEP COUNT`. Without
//! arguments, the steps' names. `scripts/bench-instructions` runs it.

use std::process::ExitCode;
use xdprobe_benches::steps::STEPS;

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
                    "instructions: '{name} {count}', wanted a step and a number; without them, all steps are named"
                );
                return ExitCode::from(2);
            };
            let mut run = (step.make)();
            // As many at once as there are batches for.
            (0..count.div_ceil(CHUNK)).for_each(|_| run(CHUNK));
        }
        _ => {
            eprintln!(
                "instructions: {} arguments, wanted STEP COUNT",
                arguments.len()
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

const CHUNK: usize = 1_920;
