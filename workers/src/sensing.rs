//! A device's sensors, asked about once a second and written to the rank's vitals.
//!
//! On a thread of its own, for whoever asks a GPU waits for its driver: mostly a moment, now and then far longer, and all
//! ranks would wait along. So the step loop has no part in it; and what a GPU does is told even while the loop hangs.

use std::{
    thread,
    time::{Duration, Instant},
};

use kernels::{DeviceError, sensors::Sensors};

use crate::link::vitals::SensorsWriter;

/// How often they are asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks until the process ends. Figures are not worth more than a line in the log if they can't be had.
pub(crate) fn watch(sensors: Box<dyn Sensors>, vitals: SensorsWriter) {
    let asking = move || ask(sensors, &vitals, INTERVAL);
    if let Err(error) = thread::Builder::new().name("sensors".into()).spawn(asking) {
        tracing::info!("the device's sensors are not watched: {error}");
    }
}

/// Returns if the sensors can't be asked from the beginning.
fn ask(mut sensors: Box<dyn Sensors>, vitals: &SensorsWriter, interval: Duration) {
    let mut trouble: Option<DeviceError> = None;
    for readings in 0_u64.. {
        let began = Instant::now();
        let answer = sensors.read();
        match (&answer, readings) {
            (Ok(reading), _) => vitals.write(reading),
            (Err(error), 0) => return tracing::info!("the device's sensors are not watched: {error}"),
            // Told once, until it changes: a device that is lost stays lost.
            (Err(error), _) if trouble.as_ref() != Some(error) => tracing::warn!("the device's sensors: {error}"),
            (Err(_), _) => {}
        }
        trouble = answer.err();
        if readings == 1 {
            // The first reading opens the way; those that follow are what a reading costs.
            tracing::info!("the device's sensors answer within {} µs", began.elapsed().as_micros());
        }
        thread::sleep(interval);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use kernels::sensors::Reading;

    use super::*;
    use crate::link::{
        VitalsBoard, VitalsWriter,
        name::{LinkName, Role},
    };

    /// Answers as told, and counts how often it is asked.
    struct Scripted(Arc<AtomicUsize>, fn(usize) -> Option<u64>);

    impl Sensors for Scripted {
        fn read(&mut self) -> kernels::Result<Reading> {
            let temperature = self.1(self.0.fetch_add(1, Relaxed));
            let lost = || DeviceError::Failed { doing: "asking".into(), fault: "lost".into() };
            temperature.ok_or_else(lost).map(|degrees| Reading { temperature_c: Some(degrees), ..Reading::default() })
        }
    }

    fn watched(script: fn(usize) -> Option<u64>) -> (VitalsBoard, Arc<AtomicUsize>, thread::JoinHandle<()>) {
        let (board, segment) = VitalsBoard::create(&LinkName::random().segment(0, Role::Vitals), 1, 0).unwrap();
        let vitals = VitalsWriter::attach(segment.name(), 0, 1, 0).unwrap().sensors();
        let asked = Arc::new(AtomicUsize::new(0));
        let sensors = Box::new(Scripted(asked.clone(), script));
        (board, asked, thread::spawn(move || ask(sensors, &vitals, Duration::from_millis(1))))
    }

    #[test]
    fn sensors_are_asked_again_and_again_whatever_comes_between() {
        let (board, asked, _thread) = watched(|time| (time % 2 == 0).then_some(60 + time as u64));
        let deadline = Instant::now() + Duration::from_secs(60);
        while board.read(0).reading.and_then(|reading| reading.temperature_c) < Some(64) {
            assert!(Instant::now() < deadline, "asked {} times", asked.load(Relaxed));
            thread::yield_now();
        }
    }

    #[test]
    fn sensors_that_never_answered_are_left_alone() {
        let (board, asked, thread) = watched(|_| None);
        thread.join().unwrap();
        assert_eq!((asked.load(Relaxed), board.read(0).reading), (1, None));
    }
}
