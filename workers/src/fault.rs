//! A fault on order, for tests of what happens then: `SHARDWIRE_FAULT=rank=1,step=5,kind=panic`.
//!
//! | key | value |
//! |---|---|
//! | `rank` | whose fault it is; or |
//! | `loop` | `engine` or `supervisor`: the fault is the server's own, in that loop |
//! | `kind` | `kill`, `stop` (the signals), `panic`, or `oom`: an allocation that fails |
//! | `loading` | `yes`: when a part of the weights is there; or |
//! | `step` | at the step of this number, counted from each start of the group; or |
//! | `token` | at every step that brings a sequence with this token; or |
//! | `idle` | `yes`: once no step comes |
//! | `epoch` | of which start of the group, where it is a rank's; without it of the first; `all` |
//!
//! The engine strikes at a step before it is published, a rank before it is computed, and the supervisor when it next looks
//! at the ranks. The engine loads nothing, and the supervisor does not see tokens.

use std::alloc::{Layout, handle_alloc_error};
use std::env;

use nix::sys::signal::{Signal, raise};

use crate::link::step::Step;

/// The variable that orders it, read once, when a process starts.
const VARIABLE: &str = "SHARDWIRE_FAULT";

/// As many bytes as nobody has.
const BYTES_TOO_MANY: usize = isize::MAX as usize & !7;

/// Who asks whether a fault is ordered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A worker.
    Rank {
        /// Which.
        rank: usize,
        /// Of which start of the group.
        epoch: u64,
    },
    /// The server's loop that decides.
    Engine,
    /// The server's loop that watches the ranks.
    Supervisor,
}

/// What is to happen there, and when.
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
    Loading,
    Step(u64),
    Token(u32),
    Idle,
}

impl Fault {
    /// The one that the environment orders of this place, if any.
    pub fn ordered(place: Place) -> Result<Option<Self>, String> {
        match env::var(VARIABLE) {
            Ok(order) => Self::read(&order, place).map_err(|why| format!("{VARIABLE}={order}: {why}")),
            Err(_) => Ok(None),
        }
    }

    fn read(order: &str, asking: Place) -> Result<Option<Self>, String> {
        let (mut place, mut kind, mut moment, mut its_epoch) = (None, None, None, Some(0));
        for part in order.split(',') {
            let (key, value) = part.trim().split_once('=').ok_or("key=value, separated by commas")?;
            match key {
                "rank" => place = Some(Place::Rank { rank: number(value)?, epoch: 0 }),
                "loop" => place = Some(Place::of_loop(value)?),
                "kind" => kind = Some(Kind::read(value)?),
                "loading" => moment = Some(Moment::Loading),
                "step" => moment = Some(Moment::Step(number(value)?)),
                "token" => moment = Some(Moment::Token(number(value)?)),
                "idle" => moment = Some(Moment::Idle),
                "epoch" => its_epoch = if value == "all" { None } else { Some(number(value)?) },
                _ => return Err(format!("nothing is called {key}")),
            }
        }
        let place = place.ok_or("neither rank nor loop")?;
        let (kind, moment) = (kind.ok_or("no kind")?, moment.ok_or("none of loading, step, token and idle")?);
        let is_here = match (place, asking) {
            (Place::Rank { rank: its, .. }, Place::Rank { rank, epoch }) => {
                its == rank && its_epoch.is_none_or(|its| its == epoch)
            }
            _ => place == asking,
        };
        Ok(is_here.then_some(Self { kind, moment }))
    }

    /// A part of the weights is there.
    pub fn strike_loading(self) {
        self.strike_if(self.moment == Moment::Loading);
    }

    /// A step begins.
    pub fn strike_at(self, step: &Step) {
        self.strike_if(match self.moment {
            Moment::Step(number) => step.number == number,
            Moment::Token(token) => step.started.iter().any(|sequence| sequence.tokens.contains(&token)),
            Moment::Loading | Moment::Idle => false,
        });
    }

    /// So many steps have been computed since the group's start.
    pub fn strike_after(self, steps: u64) {
        self.strike_if(matches!(self.moment, Moment::Step(number) if steps >= number));
    }

    /// No step has come for a while.
    pub fn strike_idle(self) {
        self.strike_if(self.moment == Moment::Idle);
    }

    fn strike_if(self, is_due: bool) {
        if is_due {
            self.kind.strike();
        }
    }
}

impl Place {
    fn of_loop(name: &str) -> Result<Self, String> {
        match name {
            "engine" => Ok(Self::Engine),
            "supervisor" => Ok(Self::Supervisor),
            _ => Err(format!("no loop is called {name}")),
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
            // Words as they stand here are told in the server's log; what is put together may quote a prompt, and is not.
            Self::Panic => panic!("a fault was ordered by SHARDWIRE_FAULT"),
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
        let check_at = |place, order: &str, expected: Result<Option<(Kind, Moment)>, &str>| {
            let read = Fault::read(order, place);
            let expected = expected.map(|fault| fault.map(|(kind, moment)| Fault { kind, moment }));
            assert_eq!(read, expected.map_err(str::to_owned), "{order}");
        };
        let check = |order, expected| check_at(Place::Rank { rank: 1, epoch: 2 }, order, expected);
        check("rank=1,step=5,kind=panic,epoch=2", Ok(Some((Kind::Panic, Moment::Step(5)))));
        check("kind=oom, token=7, rank=1, epoch=all", Ok(Some((Kind::OutOfMemory, Moment::Token(7)))));
        check("rank=1,idle=yes,kind=stop,epoch=2", Ok(Some((Kind::Stop, Moment::Idle))));
        check("rank=1,loading=yes,kind=stop,epoch=2", Ok(Some((Kind::Stop, Moment::Loading))));
        check("rank=1,step=5,kind=kill", Ok(None));
        check("rank=0,step=5,kind=kill,epoch=all", Ok(None));
        check("rank=1,step=5", Err("no kind"));
        check("rank=1,kind=kill", Err("none of loading, step, token and idle"));
        check("rank=1,kind=slow,step=1", Err("no fault is called slow"));
        check("rank=x,kind=kill,step=1", Err("x is no number"));
        check("kind=kill,step=1", Err("neither rank nor loop"));
        check("1", Err("key=value, separated by commas"));
        check("loop=engine,step=5,kind=panic", Ok(None));
        check_at(Place::Engine, "loop=engine,step=5,kind=panic", Ok(Some((Kind::Panic, Moment::Step(5)))));
        check_at(Place::Engine, "loop=supervisor,step=5,kind=panic", Ok(None));
        check_at(Place::Supervisor, "loop=supervisor,idle=yes,kind=kill", Ok(Some((Kind::Kill, Moment::Idle))));
        check_at(Place::Supervisor, "rank=0,idle=yes,kind=kill", Ok(None));
        check_at(Place::Supervisor, "loop=http,idle=yes,kind=kill", Err("no loop is called http"));
    }
}
