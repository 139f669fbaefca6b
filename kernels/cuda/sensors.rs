//! The GPU's own sensors, through NVML: the driver's library that `nvidia-smi` asks too.
//!
//! NVML counts every GPU of the machine, whichever of them this process sees, so that ours is found by its place on the
//! PCI bus. Without NVML some figures are missing, and nothing else.

use std::sync::OnceLock;

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    error::NvmlError,
};

use crate::{
    DeviceError, Result,
    sensors::{Reading, Sensors, Throttle, ThrottleReason},
};

/// What NVML answers.
type Answer<T> = std::result::Result<T, NvmlError>;

/// The sensors of one GPU.
pub(crate) struct GpuSensors {
    /// `0000:3b:00.0`
    bus_id: String,
    /// From the first reading on: to open NVML may take seconds.
    device: Option<Device<'static>>,
}

impl GpuSensors {
    /// Of the GPU at this place on the PCI bus.
    pub(crate) fn new(bus_id: &str) -> Self {
        Self { bus_id: bus_id.to_owned(), device: None }
    }

    fn device(&mut self) -> Answer<&Device<'static>> {
        let device = match self.device.take() {
            Some(device) => device,
            None => nvml()?.device_by_pci_bus_id(self.bus_id.as_str())?,
        };
        Ok(self.device.insert(device))
    }
}

impl Sensors for GpuSensors {
    fn read(&mut self) -> Result<Reading> {
        let fault = |error: NvmlError| DeviceError::Failed { doing: "asking NVML".into(), fault: error.to_string() };
        read(self.device().map_err(fault)?).map_err(fault)
    }
}

/// Opened at the first call, and for good.
fn nvml() -> Answer<&'static Nvml> {
    static NVML: OnceLock<Nvml> = OnceLock::new();
    match NVML.get() {
        Some(nvml) => Ok(nvml),
        None => Nvml::init().map(|nvml| NVML.get_or_init(|| nvml)),
    }
}

fn read(device: &Device<'_>) -> Answer<Reading> {
    let memory = told(device.memory_info())?;
    let number = |answer: Answer<u32>| told(answer.map(u64::from));
    Ok(Reading {
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_total_bytes: memory.map(|memory| memory.total),
        temperature_c: number(device.temperature(TemperatureSensor::Gpu))?,
        utilization_percent: number(device.utilization_rates().map(|rates| rates.gpu))?,
        power_mw: number(device.power_usage())?,
        power_limit_mw: number(device.enforced_power_limit())?,
        throttle: told(device.current_throttle_reasons())?.map(throttle),
        ecc_errors: told(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
    })
}

/// A figure that the GPU, its driver or its owner keeps back is none; a GPU that is gone is an error.
fn told<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error @ (NvmlError::GpuLost | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn throttle(reasons: ThrottleReasons) -> Throttle {
    let known = [
        (ThrottleReasons::SW_POWER_CAP, ThrottleReason::PowerCap),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN, ThrottleReason::Heat),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ThrottleReason::PowerBrake),
        (ThrottleReasons::HW_SLOWDOWN, ThrottleReason::Hardware),
    ];
    known.into_iter().filter(|(bits, _)| reasons.intersects(*bits)).map(|(_, reason)| reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, cuda::Cuda};

    #[test]
    fn a_gpu_tells_how_it_fares() {
        for cuda in Cuda::kinds().into_iter().take(1) {
            let mut sensors = cuda.sensors().expect("a GPU has sensors");
            let Reading { memory_used_bytes, memory_total_bytes, temperature_c, utilization_percent, power_mw, .. } =
                sensors.read().expect("NVML comes with the driver");
            assert!(memory_used_bytes <= memory_total_bytes && memory_total_bytes > Some(0));
            assert!(temperature_c.is_some_and(|degrees| (1..120).contains(&degrees)), "{temperature_c:?} °C");
            assert!(utilization_percent.is_none_or(|percent| percent <= 100), "{utilization_percent:?} %");
            assert!(power_mw.is_none_or(|milliwatts| milliwatts < 2_000_000), "{power_mw:?} mW");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        let error = GpuSensors::new("ffff:ff:1f.7").read().expect_err("no such GPU, or no NVML");
        assert!(error.to_string().starts_with("asking NVML failed: "), "{error}");
    }

    #[test]
    fn what_is_kept_back_is_no_figure_and_what_is_lost_an_error() {
        assert!(matches!(told(Ok(3)), Ok(Some(3))));
        assert!(matches!(told::<u32>(Err(NvmlError::NotSupported)), Ok(None)));
        assert!(matches!(told::<u32>(Err(NvmlError::FailedToLoadSymbol(String::new()))), Ok(None)));
        assert!(matches!(told::<u32>(Err(NvmlError::GpuLost)), Err(NvmlError::GpuLost)));
    }

    #[test]
    fn heat_is_heat_whoever_finds_it() {
        let check = |reasons, expected: &[ThrottleReason]| {
            assert_eq!(throttle(reasons).reasons().collect::<Vec<_>>(), expected, "{reasons:?}");
        };
        check(ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, &[]);
        check(ThrottleReasons::SW_POWER_CAP, &[ThrottleReason::PowerCap]);
        check(ThrottleReasons::SW_THERMAL_SLOWDOWN, &[ThrottleReason::Heat]);
        let hardware = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        check(hardware, &[ThrottleReason::Heat, ThrottleReason::Hardware]);
    }
}
