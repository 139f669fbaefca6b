// The stand-in for NVML: sensors of the GPUs that the stand-in driver has, at the places on the PCI bus that it gives them.
//
// STAND_IN_SENSORS tells of what ails them: `hot` (too hot, and slowed for it), `silent` (no sensor is supported), `lost`
// (they fell off the bus), `hang` (whoever asks waits for ever). Otherwise all is well.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include "../cuda/settings.hpp"

#pragma GCC visibility push(default)
#include <nvml.h>
#pragma GCC visibility pop

using stand_in::settings;

namespace {

bool ails(const char* what) {
    const char* told = getenv("STAND_IN_SENSORS");
    return told && strcmp(told, what) == 0;
}

nvmlDevice_t handle_of(int device) { return reinterpret_cast<nvmlDevice_t>(uintptr_t(device) + 1); }

int device_of(nvmlDevice_t handle) { return int(reinterpret_cast<uintptr_t>(handle) - 1); }

// Whether a sensor of this device may be asked, and does not answer otherwise.
nvmlReturn_t ask(nvmlDevice_t handle) {
    if (!handle || device_of(handle) >= settings().gpus) return NVML_ERROR_INVALID_ARGUMENT;
    while (ails("hang")) pause();
    if (ails("lost")) return NVML_ERROR_GPU_IS_LOST;
    if (ails("silent")) return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

}  // namespace

#define ASK(handle) \
    if (nvmlReturn_t refused = ask(handle)) return refused

extern "C" {

nvmlReturn_t nvmlInit_v2() { return settings().gpus > 0 ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED; }

nvmlReturn_t nvmlShutdown() { return NVML_SUCCESS; }

nvmlReturn_t nvmlSystemGetDriverVersion(char* version, unsigned length) {
    snprintf(version, length, "550.54.15");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, nvmlDevice_t* handle) {
    unsigned domain, bus, slot, function;
    if (sscanf(bus_id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4) return NVML_ERROR_INVALID_ARGUMENT;
    if (domain || slot || function || bus < 1 || int(bus) > settings().gpus) return NVML_ERROR_NOT_FOUND;
    *handle = handle_of(int(bus) - 1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t* memory) {
    ASK(handle);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = settings().memory;
    memory->reserved = settings().memory / 64;
    memory->used = settings().memory / 4;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, nvmlTemperatureSensors_t sensor, unsigned* degrees) {
    ASK(handle);
    if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
    *degrees = (ails("hot") ? 90 : 40) + unsigned(device_of(handle));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t* rates) {
    ASK(handle);
    *rates = {50 + unsigned(device_of(handle)), 25};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t handle, unsigned* milliwatts) {
    ASK(handle);
    *milliwatts = 300'000 + 1000 * unsigned(device_of(handle));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t handle, unsigned* milliwatts) {
    ASK(handle);
    *milliwatts = 700'000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle, unsigned long long* reasons) {
    ASK(handle);
    *reasons = ails("hot") ? nvmlClocksThrottleReasonHwSlowdown | nvmlClocksThrottleReasonHwThermalSlowdown : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t handle, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long* errors) {
    ASK(handle);
    if (type != NVML_MEMORY_ERROR_TYPE_UNCORRECTED || counter != NVML_VOLATILE_ECC) return NVML_ERROR_INVALID_ARGUMENT;
    *errors = 0;
    return NVML_SUCCESS;
}
}
