#include "settings.hpp"

#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace stand_in {

namespace {

std::string text(const char* name, const char* otherwise) {
    const char* told = getenv(name);
    return told && *told ? told : otherwise;
}

size_t bytes(const char* name, const char* otherwise) {
    std::string told = text(name, otherwise);
    char* unit;
    size_t number = strtoull(told.c_str(), &unit, 10);
    switch (*unit) {
        case 'G': return number << 30;
        case 'M': return number << 20;
        case 'K': return number << 10;
        default: return number;
    }
}

std::string path(const char* name) {
    std::string told = text(name, "");
    size_t process = told.find("%p");
    if (process != std::string::npos) told.replace(process, 2, std::to_string(getpid()));
    return told;
}

Settings read() {
    Settings read;
    read.gpus = atoi(text("STAND_IN_GPUS", "1").c_str());
    read.seed = unsigned(atoi(text("STAND_IN_SEED", "0").c_str()));
    read.delay_us = atoi(text("STAND_IN_DELAY_US", "0").c_str());
    read.memory = bytes("STAND_IN_MEMORY", "8G");
    read.cache = bytes("STAND_IN_CACHE", "32M");
    read.multiprocessors = atoi(text("STAND_IN_MULTIPROCESSORS", "4").c_str());
    read.driver_version = atoi(text("STAND_IN_DRIVER", "12090").c_str());
    read.trace_path = path("STAND_IN_TRACE");
    read.sample = text("STAND_IN_KERNELS", "") == "sample";
    read.counts_path = path("STAND_IN_COUNT");
    read.capability_minor = 0;
    sscanf(text("STAND_IN_CAPABILITY", "9.0").c_str(), "%d.%d", &read.capability_major, &read.capability_minor);
    return read;
}

}  // namespace

const Settings& settings() {
    static const Settings& once = *new Settings(read());
    return once;
}

}  // namespace stand_in
