// Modules: the text that a GPU would run, held against the host's build of the same kernels.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "driver_api.hpp"
#include "../simt/kernels.hpp"

namespace stand_in {

// What the text in PTX says of an entry.
struct EntryText {
    std::vector<size_t> parameter_bytes;
    unsigned threads_max = 0;  // 0: it does not say
    size_t static_shared = 0;
};

struct Ptx {
    int version = 0;                // 88 is 8.8
    int target = 0;                 // 90 is sm_90
    bool only_that_target = false;  // sm_90a
    std::map<std::string, EntryText> entries;
};

// False if this is no PTX.
bool read_ptx(const std::string& text, Ptx& ptx);

}  // namespace stand_in

struct CUmod_st {
    CUcontext context;
    std::string cubin;  // empty where it is PTX
    stand_in::Ptx ptx;
    std::map<std::string, CUfunction> functions;
};

struct CUfunc_st {
    const simt::Kernel* kernel;
    CUmodule module;
    size_t static_shared = 0;
    size_t dynamic_shared_max = 0;
};
