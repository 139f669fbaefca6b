//! The shipped ring in this process's memory: order, wrapping, waiting, and peers that lie.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    atomics::Native,
    bell::{Bell, DOZE_MAX},
    *,
};
use crate::link::{
    error::LinkError,
    name::{LinkName, Role},
    shm::Segment,
};

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(10);
const CAPACITY: usize = 4096;

/// A ring for `readers`, with one more handle on its memory to tamper with.
struct Bench {
    writer: RingWriter,
    readers: Vec<RingReader>,
    memory: RingMemory,
}

fn bench(readers: usize, waiting: Waiting) -> Bench {
    let word = || AtomicU64::new(0);
    let memories = RingMemory::<Native>::in_heap(readers + 2, CAPACITY, readers, word, word, || AtomicU32::new(0));
    let mut memories = memories.into_iter();
    let memory = memories.next().unwrap();
    let writer = RingWriter::new(memories.next().unwrap(), waiting).unwrap();
    let reader = |(index, memory)| RingReader::new(memory, index, waiting).unwrap();
    Bench { writer, readers: memories.enumerate().map(reader).collect(), memory }
}

/// A frame whose bytes tell its number and its length.
fn frame(number: u64) -> Vec<u8> {
    let length = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let length = if number.is_multiple_of(7) { length % (CAPACITY as u64 / 2 - 8) } else { length % 100 };
    (0..length).map(|at| (number ^ at) as u8).collect()
}

#[test]
fn threads_pass_every_frame_in_order() {
    for waiting in [Waiting::Sleep, Waiting::SpinThenSleep] {
        let Bench { mut writer, readers, .. } = bench(3, waiting);
        std::thread::scope(|scope| {
            for mut reader in readers {
                scope.spawn(move || {
                    for number in 0..5_000 {
                        assert_eq!(reader.take(SOON).unwrap().expect("no frame came"), frame(number));
                    }
                });
            }
            for number in 0..5_000 {
                writer.publish(&frame(number), SOON).unwrap();
            }
        });
    }
}

proptest! {
    #[test]
    fn it_is_a_queue(operations in prop::collection::vec(prop::option::of(0..CAPACITY / 2 - 7), 1..400)) {
        let Bench { mut writer, mut readers, .. } = bench(1, Waiting::Sleep);
        let mut queue = VecDeque::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let Some(length) = operation else {
                prop_assert_eq!(readers[0].take(NOW).unwrap().map(<[u8]>::to_vec), queue.pop_front());
                continue;
            };
            let frame = vec![number as u8; length];
            let used: u64 = queue.iter().map(|frame: &Vec<u8>| frame::size(frame.len())).sum();
            let fits = used + frame::size(length) <= CAPACITY as u64;
            prop_assert_eq!(writer.publish(&frame, NOW).is_ok(), fits);
            if fits {
                queue.push_back(frame);
            }
        }
    }

    /// Whatever words a mad writer leaves: an error or a frame within bounds, never a panic.
    #[test]
    fn any_words_are_survived(
        words in prop::collection::vec(any::<u64>(), CAPACITY / 8), published in any::<u64>(), small in any::<bool>(),
    ) {
        let Bench { mut readers, memory, .. } = bench(1, Waiting::Sleep);
        memory.words.iter().zip(words).for_each(|(word, value)| word.store(value, Relaxed));
        let published = if small { published % (2 * CAPACITY as u64) } else { published };
        memory.control[0].published.store(published, Relaxed);
        let taken = readers[0].take(NOW);
        prop_assert!(matches!(taken, Err(LinkError::Corrupt { .. }) | Ok(None)), "{:?}", taken);
    }
}

#[test]
fn a_frame_takes_at_most_half_of_the_room() {
    let Bench { mut writer, mut readers, .. } = bench(1, Waiting::Sleep);
    let limit = CAPACITY / 2 - 8;
    let refused = writer.publish(&vec![1; limit + 1], NOW);
    assert!(
        matches!(refused, Err(LinkError::TooLarge { bytes, limit: told, .. }) if bytes == told + 1 && told == limit)
    );
    for _ in 0..2 {
        writer.publish(&vec![1; limit], NOW).unwrap();
    }
    assert_eq!(readers[0].take(NOW).unwrap().unwrap().len(), limit);
}

#[test]
fn a_full_ring_names_the_slowest_reader_and_goes_on_when_it_does() {
    let Bench { mut writer, mut readers, .. } = bench(3, Waiting::Sleep);
    let frame = [7; 1000];
    for _ in 0..4 {
        writer.publish(&frame, NOW).unwrap();
    }
    for (index, taken) in [(0, 2), (1, 0), (2, 1)] {
        (0..taken).for_each(|_| assert!(readers[index].take(NOW).unwrap().is_some()));
    }
    let refused = writer.publish(&frame, Duration::from_millis(2)).unwrap_err();
    assert!(matches!(refused, LinkError::Full { reader_index: 1, behind_bytes: 4032, .. }), "{refused}");
    readers[1].take(NOW).unwrap().unwrap();
    writer.publish(&frame, NOW).unwrap();
}

#[test]
fn a_writer_that_waits_for_room_is_woken() {
    let Bench { mut writer, mut readers, .. } = bench(1, Waiting::Sleep);
    (0..4).for_each(|_| writer.publish(&[7; 1000], NOW).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| writer.publish(&[8; 1000], SOON).unwrap());
        for _ in 0..4 {
            assert_eq!(readers[0].take(SOON).unwrap().unwrap(), [7; 1000]);
        }
        assert_eq!(readers[0].take(SOON).unwrap().unwrap(), [8; 1000]);
    });
}

#[test]
fn what_a_lying_writer_publishes_is_refused() {
    let check = |what: &str, tamper: &dyn Fn(&RingMemory)| {
        let Bench { mut writer, mut readers, memory } = bench(1, Waiting::Sleep);
        writer.publish(&[1; 16], NOW).unwrap();
        tamper(&memory);
        for _ in 0..2 {
            let taken = readers[0].take(NOW);
            assert!(matches!(taken, Err(LinkError::Corrupt { .. })), "{what}: {taken:?}");
        }
    };
    let published = |value: u64| move |memory: &RingMemory| memory.control[0].published.store(value, Relaxed);
    check("more than the room holds", &published(CAPACITY as u64 + 8));
    check("no whole words", &published(23));
    check("a position before the first", &published(u64::MAX - 7));
    check("less than the frame", &published(16));
    let header = |value: u64| {
        move |memory: &RingMemory| {
            memory.words[0].store(u64::from(frame::guard(1, 0)) << 32 | value, Relaxed);
        }
    };
    check("a frame longer than what is published", &header(17));
    check("a frame longer than any", &header(u32::MAX.into()));
    check("another epoch's frame", &|memory| memory.words[0].store(u64::from(frame::guard(2, 0)) << 32 | 16, Relaxed));
}

#[test]
fn what_a_lying_reader_claims_is_refused() {
    // Both readers take eight frames of 1008 bytes; then one of them lies, and the writer looks when the room is used up.
    for lie in [0, 8064 - CAPACITY as u64 - 8, 8064 + 4 * 1008 + 8, u64::MAX] {
        let Bench { mut writer, mut readers, memory } = bench(2, Waiting::Sleep);
        for _ in 0..8 {
            writer.publish(&[1; 1000], NOW).unwrap();
            readers.iter_mut().for_each(|reader| assert!(reader.take(NOW).unwrap().is_some()));
        }
        memory.cursors[1].taken.store(lie, Relaxed);
        let refused = (0..5).find_map(|_| writer.publish(&[1; 1000], NOW).err()).unwrap();
        assert!(matches!(&refused, LinkError::Corrupt { found, .. } if found.contains("rank 1")), "{lie}: {refused}");
    }
}

#[test]
fn an_end_is_taken_once() {
    let Bench { memory, .. } = bench(1, Waiting::Sleep);
    assert!(matches!(memory.take_reading_end(0), Err(LinkError::Taken { .. })));
    assert!(matches!(memory.take_reading_end(1), Err(LinkError::Config(_))));
    assert!(matches!(RingWriter::new(memory, Waiting::Sleep), Err(LinkError::Taken { .. })));
}

#[test]
fn a_ring_of_another_shape_is_refused() {
    let name = LinkName::random().segment(7, Role::Steps);
    let shape = RingShape { role: Role::Steps, epoch: 7, readers: 2 };
    let (ours, segment) = RingMemory::create(&name, shape, 5000).unwrap();
    assert_eq!((ours.capacity, RingMemory::attach(&name, shape).unwrap().capacity), (8192, 8192));
    let mismatch = |shape| match RingMemory::attach(&name, shape) {
        Err(LinkError::Mismatch { what, expected, found, .. }) => (what, expected, found),
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(mismatch(RingShape { epoch: 8, ..shape }), ("epoch", 8, 7));
    assert_eq!(mismatch(RingShape { readers: 1, ..shape }), ("reader count", 1, 2));
    let header = segment.view::<AtomicU64>(0, 5).unwrap();
    let check = |word: usize, lie: u64, expected: &str| {
        let truth = header[word].swap(lie, Relaxed);
        let error = RingMemory::attach(&name, shape).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        header[word].store(truth, Relaxed);
    };
    check(0, 0, "magic number");
    check(1, 99, "layout version");
    for capacity in [0, 8191, 2048, 1 << 40, u64::MAX] {
        check(4, capacity, "corrupt: its capacity is");
    }
    check(4, 1 << 20, "too few for what it claims to hold");
    RingMemory::attach(&name, shape).unwrap();
}

#[test]
fn a_segment_that_is_no_ring_is_refused() {
    let name = LinkName::random().segment(0, Role::Steps);
    let _segment = Segment::create(&name, 4096).unwrap();
    let refused = RingMemory::attach(&name, RingShape { role: Role::Steps, epoch: 0, readers: 1 });
    assert!(matches!(refused, Err(LinkError::Mismatch { what: "magic number", .. })));
}

#[test]
fn an_idle_waiter_sleeps() {
    let bell = Bell::<Native>::new(AtomicU32::new(0), AtomicU32::new(0));
    let mut looks = 0;
    let found: Option<()> = bell.wait(Waiting::Sleep, 2 * DOZE_MAX, || {
        looks += 1;
        None
    });
    assert!(found.is_none());
    assert!(looks < 20, "it looked {looks} times in two dozes");
}
