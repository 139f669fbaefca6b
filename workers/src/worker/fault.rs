//! A fault on order, for tests of what happens then: `SHARDWIRE_FAULT=rank=1,step=5,kind=panic`.
//!
//! | key | value |
//! |---|---|
//! | `rank` | whose fault it is |
//! | `kind` | `kill`, `stop` (the signals), `panic`, or `oom`: an allocation that fails |
//! | `step` | at the beginning of the step of this number, counted from each start of the group; or |
//! | `token` | of every step that brings a sequence with this token; or |
//! | `idle` | `yes`: once no step comes |
//! | `epoch` | of which start of the group; without it of the first; `all` |

use std::alloc::{Layout, handle_alloc_error};
use std::env;

use nix::sys::signal::{Signal, raise};

use crate::link::step::Step;

/// The variable that orders it, read once, when a worker starts.
const VARIABLE: &str = "SHARDWIRE_FAULT";

/// As many bytes as nobody has.
const BYTES_TOO_MANY: usize = isize::MAX as usize & !7;

/// What is to happen in this worker, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    moment: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    Stop,
    Panic,
    OutOfMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Step(u64),
    Token(u32),
    Idle,
}

impl Fault {
    /// The one that the environment orders of this worker, if any.
    pub fn ordered(rank: usize, epoch: u64) -> Result<Option<Self>, String> {
        match env::var(VARIABLE) {
            Ok(order) => Self::read(&order, rank, epoch).map_err(|why| format!("{VARIABLE}={order}: {why}")),
            Err(_) => Ok(None),
        }
    }

    fn read(order: &str, rank: usize, epoch: u64) -> Result<Option<Self>, String> {
        let (mut its_rank, mut kind, mut moment, mut its_epoch) = (None, None, None, Some(0));
        for part in order.split(',') {
            let (key, value) = part.trim().split_once('=').ok_or("key=value, separated by commas")?;
            match key {
                "rank" => its_rank = Some(number(value)?),
                "kind" => kind = Some(Kind::read(value)?),
                "step" => moment = Some(Moment::Step(number(value)?)),
                "token" => moment = Some(Moment::Token(number(value)?)),
                "idle" => moment = Some(Moment::Idle),
                "epoch" => its_epoch = if value == "all" { None } else { Some(number(value)?) },
                _ => return Err(format!("nothing is called {key}")),
            }
        }
        let its_rank: usize = its_rank.ok_or("no rank")?;
        let (kind, moment) = (kind.ok_or("no kind")?, moment.ok_or("none of step, token and idle")?);
        let is_here = its_rank == rank && its_epoch.is_none_or(|its_epoch: u64| its_epoch == epoch);
        Ok(is_here.then_some(Self { kind, moment }))
    }

    /// A step begins.
    pub fn strike_at(self, step: &Step) {
        let is_due = match self.moment {
            Moment::Step(number) => step.number == number,
            Moment::Token(token) => step.started.iter().any(|sequence| sequence.tokens.contains(&token)),
            Moment::Idle => false,
        };
        if is_due {
            self.kind.strike();
        }
    }

    /// No step has come for a while.
    pub fn strike_idle(self) {
        if self.moment == Moment::Idle {
            self.kind.strike();
        }
    }
}

impl Kind {
    fn read(name: &str) -> Result<Self, String> {
        match name {
            "kill" => Ok(Self::Kill),
            "stop" => Ok(Self::Stop),
            "panic" => Ok(Self::Panic),
            "oom" => Ok(Self::OutOfMemory),
            _ => Err(format!("no fault is called {name}")),
        }
    }

    fn strike(self) {
        match self {
            Self::Kill => drop(raise(Signal::SIGKILL)),
            Self::Stop => drop(raise(Signal::SIGSTOP)),
            Self::Panic => panic!("a fault was ordered by {VARIABLE}"),
            // What the allocator does whose memory has come to its end.
            Self::OutOfMemory => {
                handle_alloc_error(Layout::from_size_align(BYTES_TOO_MANY, 8).expect("not beyond isize::MAX"))
            }
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let check = |order: &str, expected: Result<Option<(Kind, Moment)>, &str>| {
            let read = Fault::read(order, 1, 2);
            let expected = expected.map(|fault| fault.map(|(kind, moment)| Fault { kind, moment }));
            assert_eq!(read, expected.map_err(str::to_owned), "{order}");
        };
        check("rank=1,step=5,kind=panic,epoch=2", Ok(Some((Kind::Panic, Moment::Step(5)))));
        check("kind=oom, token=7, rank=1, epoch=all", Ok(Some((Kind::OutOfMemory, Moment::Token(7)))));
        check("rank=1,idle=yes,kind=stop,epoch=2", Ok(Some((Kind::Stop, Moment::Idle))));
        check("rank=1,step=5,kind=kill", Ok(None));
        check("rank=0,step=5,kind=kill,epoch=all", Ok(None));
        check("rank=1,step=5", Err("no kind"));
        check("rank=1,kind=kill", Err("none of step, token and idle"));
        check("rank=1,kind=slow,step=1", Err("no fault is called slow"));
        check("rank=x,kind=kill,step=1", Err("x is no number"));
        check("1", Err("key=value, separated by commas"));
    }
}
