#include "memory.hpp"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "../simt/kernels.hpp"
#include "../simt/traffic.hpp"
#include "report.hpp"
#include "settings.hpp"

namespace stand_in {

namespace {

constexpr size_t PAGE = 4096;
constexpr size_t ALIGNMENT = 256;                    // what the driver promises
constexpr int GARBAGE = 0xcd;                        // in fresh memory: what was never written is found out
constexpr int BORDER = 0xb5;                         // around an allocation, within its pages
constexpr size_t FILL_WHOLE_MAX = size_t(64) << 20;  // of larger memory only the beginning and the end are filled
constexpr size_t QUARANTINE_MAX = 4096;
constexpr uint64_t HANDLE_MAGIC = 0x737464696e697063;

size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

// A device's memory is a file without a name, so that other processes can map pieces of it.
struct Device {
    int file = -1;
    size_t used = 0;
    std::map<size_t, size_t> holes;  // offset to length
};

struct Memory {
    std::mutex lock;
    std::vector<Device> devices;
    std::map<uintptr_t, Allocation> allocations;
    std::map<uintptr_t, Allocation> freed;
    std::deque<uintptr_t> freed_order;
};

Memory& memory() {
    static Memory& once = *[] {
        auto* made = new Memory;
        made->devices.resize(size_t(settings().gpus));
        return made;
    }();
    return once;
}

Device& device_of(int number) {
    Device& device = memory().devices[size_t(number)];
    if (device.file >= 0) return device;
    // The size is a limit of addresses: nothing is taken from the machine before it is written.
    size_t bytes = whole_pages(settings().memory);
    device.file = memfd_create("stand-in-gpu", MFD_CLOEXEC);
    if (device.file < 0 || ftruncate(device.file, off_t(bytes))) stop("no memory for device %d: %m", number);
    device.holes[0] = bytes;
    return device;
}

bool take_hole(Device& device, size_t bytes, size_t& offset) {
    auto fitting =
        std::find_if(device.holes.begin(), device.holes.end(), [&](auto& hole) { return hole.second >= bytes; });
    if (fitting == device.holes.end()) return false;
    auto [start, length] = *fitting;
    device.holes.erase(fitting);
    if (length > bytes) device.holes[start + bytes] = length - bytes;
    offset = start;
    device.used += bytes;
    return true;
}

void give_hole(Device& device, size_t offset, size_t bytes) {
    fallocate(device.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(bytes));
    device.used -= bytes;
    auto after = device.holes.lower_bound(offset);
    if (after != device.holes.end() && after->first == offset + bytes) {
        bytes += after->second;
        after = device.holes.erase(after);
    }
    if (after != device.holes.begin()) {
        auto before = std::prev(after);
        if (before->first + before->second == offset) {
            before->second += bytes;
            return;
        }
    }
    device.holes[offset] = bytes;
}

// Where kernels that count look for the memory of a range's device; each address once.
void* next_in_range(int range, size_t bytes) {
    static std::atomic<size_t> taken[simt::DEVICE_RANGES];
    size_t start = taken[range].fetch_add(bytes);
    if (start + bytes > size_t(1) << simt::DEVICE_BITS) stop("no addresses are left to count at");
    return reinterpret_cast<void*>(simt::DEVICE_SPACE + (uintptr_t(range) << simt::DEVICE_BITS) + start);
}

// Pages of a file, or of nothing, between two that can't be touched. `range` is where kernels that count look for them,
// -1 for memory that isn't a device's.
char* map_between_guards(size_t bytes, int file, size_t offset, int range) {
    bool is_placed = simt::COUNTS && range >= 0;
    void* wanted = is_placed ? next_in_range(range, bytes + 2 * PAGE) : nullptr;
    int placed = is_placed ? MAP_FIXED_NOREPLACE : 0;
    void* room = mmap(wanted, bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | placed, -1, 0);
    if (room == MAP_FAILED) return nullptr;
    char* pages = static_cast<char*>(room) + PAGE;
    int flags = MAP_FIXED | (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED);
    void* mapped = mmap(pages, bytes, PROT_READ | PROT_WRITE, flags, file, off_t(offset));
    if (mapped != MAP_FAILED) return pages;
    munmap(room, bytes + 2 * PAGE);
    return nullptr;
}

void fill(const Allocation& of) {
    char* start = reinterpret_cast<char*>(of.address);
    char* end = start + of.bytes;
    memset(of.pages, BORDER, size_t(start - of.pages));
    memset(end, BORDER, size_t(of.pages + of.page_bytes - end));
    // Where kernels do nothing, what they have not written must be harmless; and it is zero already.
    bool is_harmless = settings().sample;
    if (!is_harmless && of.bytes <= FILL_WHOLE_MAX) {
        memset(start, GARBAGE, of.bytes);
    } else if (!is_harmless) {
        memset(start, GARBAGE, FILL_WHOLE_MAX / 2);
        memset(end - PAGE, GARBAGE, PAGE);
    }
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(of.pages, size_t(start - of.pages));
    __asan_poison_memory_region(end, size_t(of.pages + of.page_bytes - end));
#endif
}

void check_border(const Allocation& of, const char* function) {
    const char* start = reinterpret_cast<const char*>(of.address);
    const char* end = start + of.bytes;
    const char* pages_end = of.pages + of.page_bytes;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(of.pages, of.page_bytes);
#endif
    for (const char* at = of.pages; at < start; at++) {
        if (*at != char(BORDER))
            stop("%s: %zu bytes before %zu bytes of memory were written", function, size_t(start - at), of.bytes);
    }
    for (const char* at = end; at < pages_end; at++) {
        if (*at != char(BORDER))
            stop("%s: %zu bytes behind %zu bytes of memory were written", function, size_t(at - end), of.bytes);
    }
}

// Puts it at the end of its pages.
void place(Allocation& allocation, char* pages, size_t page_bytes) {
    size_t room = (allocation.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    allocation.pages = pages;
    allocation.page_bytes = page_bytes;
    allocation.address = reinterpret_cast<uintptr_t>(pages) + page_bytes - room;
}

const Allocation* at_or_before(const std::map<uintptr_t, Allocation>& of, uintptr_t address) {
    auto after = of.upper_bound(address);
    return after == of.begin() ? nullptr : &std::prev(after)->second;
}

bool holds(const Allocation* allocation, uintptr_t address, size_t bytes) {
    return allocation && address >= allocation->address && address + bytes <= allocation->address + allocation->bytes;
}

void forget_oldest(Memory& all) {
    if (all.freed_order.size() <= QUARANTINE_MAX) return;
    const Allocation& oldest = all.freed.at(all.freed_order.front());
    munmap(oldest.pages - PAGE, oldest.page_bytes + 2 * PAGE);
    all.freed.erase(all.freed_order.front());
    all.freed_order.pop_front();
}

void unmap(Memory& all, const Allocation& allocation) {
    mmap(allocation.pages, allocation.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
         -1, 0);
    all.freed[allocation.address] = allocation;
    all.freed_order.push_back(allocation.address);
    forget_oldest(all);
}

[[noreturn]] void complain_of(const Memory& all, uintptr_t address, const char* function) {
    const Allocation* freed = at_or_before(all.freed, address);
    bool was_freed = freed && freed->address == address;
    stop("%s: %#zx %s", function, address, was_freed ? "was freed before" : "is not the start of an allocation");
}

}  // namespace

CUresult allocate(int number, size_t bytes, MemoryKind kind, uintptr_t& address) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    Device& device = device_of(number);
    size_t page_bytes = whole_pages((bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT), offset;
    if (!take_hole(device, page_bytes, offset)) return CUDA_ERROR_OUT_OF_MEMORY;
    char* pages = map_between_guards(page_bytes, device.file, offset, number);
    if (!pages) {
        give_hole(device, offset, page_bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    Allocation allocation{};
    allocation.bytes = bytes;
    allocation.kind = kind;
    allocation.device = number;
    allocation.offset = offset;
    place(allocation, pages, page_bytes);
    fill(allocation);
    all.allocations[allocation.address] = allocation;
    address = allocation.address;
    note_allocation(bytes);
    return CUDA_SUCCESS;
}

CUresult allocate_host(size_t bytes, unsigned flags, uintptr_t& address) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    size_t page_bytes = whole_pages((bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    char* pages = map_between_guards(page_bytes, -1, 0, -1);
    if (!pages) return CUDA_ERROR_OUT_OF_MEMORY;
    Allocation allocation{};
    allocation.bytes = bytes;
    allocation.kind = MemoryKind::Host;
    allocation.device = -1;
    allocation.flags = flags;
    place(allocation, pages, page_bytes);
    fill(allocation);
    all.allocations[allocation.address] = allocation;
    address = allocation.address;
    note_allocation(bytes);
    return CUDA_SUCCESS;
}

CUresult register_host(uintptr_t address, size_t bytes, unsigned flags) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    const Allocation* near = at_or_before(all.allocations, address + bytes - 1);
    if (near && near->address + near->bytes > address) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    Allocation allocation{};
    allocation.address = address;
    allocation.bytes = bytes;
    allocation.kind = MemoryKind::Registered;
    allocation.device = -1;
    allocation.flags = flags;
    all.allocations[address] = allocation;
    return CUDA_SUCCESS;
}

CUresult unregister_host(uintptr_t address) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    auto found = all.allocations.find(address);
    if (found == all.allocations.end() || found->second.kind != MemoryKind::Registered) {
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    }
    all.allocations.erase(found);
    return CUDA_SUCCESS;
}

void release(uintptr_t address, const char* function, bool host) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    auto found = all.allocations.find(address);
    if (found == all.allocations.end()) complain_of(all, address, function);
    Allocation allocation = found->second;
    bool right = host ? allocation.kind == MemoryKind::Host
                      : allocation.kind == MemoryKind::Device || allocation.kind == MemoryKind::Pool;
    if (!right) stop("%s: %#zx is memory of another kind", function, address);
    check_border(allocation, function);
    unmap(all, allocation);
    if (!host) give_hole(device_of(allocation.device), allocation.offset, allocation.page_bytes);
    all.allocations.erase(found);
}

void mark_freeing(uintptr_t address, const char* function) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    auto found = all.allocations.find(address);
    if (found == all.allocations.end()) complain_of(all, address, function);
    if (found->second.freeing) stop("%s: %#zx was freed before", function, address);
    found->second.freeing = true;
}

bool find(uintptr_t address, size_t bytes, Allocation& found, const char* function) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    const Allocation* freed = at_or_before(all.freed, address);
    if (holds(freed, address, bytes)) stop("%s: [%#zx, +%zu) was freed before", function, address, bytes);
    const Allocation* allocation = at_or_before(all.allocations, address);
    if (!holds(allocation, address, bytes)) return false;
    found = *allocation;
    return true;
}

bool is_device_memory(uintptr_t address, size_t bytes, const char* function) {
    Allocation found;
    if (!find(address, bytes, found, function)) return false;
    return found.kind != MemoryKind::Host && found.kind != MemoryKind::Registered;
}

bool is_pinned(const void* address, size_t bytes, const char* function) {
    Allocation found;
    if (!find(reinterpret_cast<uintptr_t>(address), bytes, found, function)) return false;
    return found.kind == MemoryKind::Host || found.kind == MemoryKind::Registered;
}

CUresult export_allocation(uintptr_t address, SharedHandle& handle) {
    Allocation found;
    if (!find(address, 1, found, __func__)) return CUDA_ERROR_INVALID_VALUE;
    if (found.kind != MemoryKind::Device) {
        return refuse(CUDA_ERROR_INVALID_VALUE, __func__, "only memory of cuMemAlloc can be shared");
    }
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    size_t start = found.address - reinterpret_cast<uintptr_t>(found.pages);
    handle = {HANDLE_MAGIC, getpid(),   device_of(found.device).file, found.device, found.offset, found.page_bytes,
              start,        found.bytes};
    return CUDA_SUCCESS;
}

CUresult import_allocation(const SharedHandle& handle, uintptr_t& address) {
    if (handle.magic != HANDLE_MAGIC)
        return refuse(CUDA_ERROR_INVALID_VALUE, __func__, "this is no handle of the stand-in");
    if (handle.process == getpid()) {
        return refuse(CUDA_ERROR_INVALID_CONTEXT, __func__, "a process can't open its own handle");
    }
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    for (auto& [at, allocation] : all.allocations) {
        bool same = allocation.kind == MemoryKind::Imported && allocation.flags == unsigned(handle.process) &&
                    allocation.offset == handle.offset && allocation.device == handle.device;
        if (!same) continue;
        allocation.opened++;
        address = at;
        return CUDA_SUCCESS;
    }
    std::string path = "/proc/" + std::to_string(handle.process) + "/fd/" + std::to_string(handle.file);
    int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) return refuse(CUDA_ERROR_MAP_FAILED, __func__, "%s can't be opened: %m", path.c_str());
    char* pages = map_between_guards(handle.page_bytes, file, handle.offset, simt::OTHER_PROCESSES);
    close(file);
    if (!pages) return CUDA_ERROR_MAP_FAILED;
    Allocation allocation{};
    allocation.address = reinterpret_cast<uintptr_t>(pages) + handle.start;
    allocation.bytes = handle.bytes;
    allocation.kind = MemoryKind::Imported;
    allocation.device = handle.device;
    allocation.pages = pages;
    allocation.page_bytes = handle.page_bytes;
    allocation.offset = handle.offset;
    allocation.flags = unsigned(handle.process);
    allocation.opened = 1;
    all.allocations[allocation.address] = allocation;
    address = allocation.address;
    return CUDA_SUCCESS;
}

CUresult close_imported(uintptr_t address) {
    Memory& all = memory();
    std::lock_guard lock(all.lock);
    auto found = all.allocations.find(address);
    if (found == all.allocations.end() || found->second.kind != MemoryKind::Imported) return CUDA_ERROR_INVALID_VALUE;
    if (--found->second.opened > 0) return CUDA_SUCCESS;
    Allocation allocation = found->second;
    all.allocations.erase(found);
    unmap(all, allocation);
    return CUDA_SUCCESS;
}

void set_to_zero(uintptr_t address, size_t bytes) {
    constexpr size_t LARGE = 1 << 20;
    auto* start = reinterpret_cast<char*>(address);
    Allocation found;
    bool own =
        find(address, bytes, found, __func__) && (found.kind == MemoryKind::Device || found.kind == MemoryKind::Pool);
    if (!own || bytes < LARGE) {
        memset(start, 0, bytes);
        return;
    }
    char* first = reinterpret_cast<char*>(whole_pages(address));
    size_t whole = (address + bytes) / PAGE * PAGE - whole_pages(address);
    size_t offset = found.offset + size_t(first - found.pages);
    int file;
    {
        std::lock_guard lock(memory().lock);
        file = device_of(found.device).file;
    }
    if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(whole)))
        memset(first, 0, whole);
    memset(start, 0, size_t(first - start));
    memset(first + whole, 0, size_t(start + bytes - first) - whole);
}

void memory_info(int number, size_t& free_bytes, size_t& total_bytes) {
    std::lock_guard lock(memory().lock);
    total_bytes = whole_pages(settings().memory);
    free_bytes = total_bytes - device_of(number).used;
}

#ifdef __SANITIZE_ADDRESS__

void explain_faults() {}  // AddressSanitizer explains better

#else

namespace {

struct sigaction handler_before[NSIG];

// Where an address lies, for a process that ends: what is read without a lock may at worst be told wrongly.
std::string whereabouts(uintptr_t address) {
    const Memory& all = memory();
    const Allocation* freed = at_or_before(all.freed, address);
    if (freed && address < freed->address + freed->bytes) {
        return "in " + std::to_string(freed->bytes) + " bytes that were freed before";
    }
    const Allocation* before = at_or_before(all.allocations, address);
    if (before && address < reinterpret_cast<uintptr_t>(before->pages) + before->page_bytes + PAGE) {
        return std::to_string(address - before->address - before->bytes) + " bytes behind the end of " +
               std::to_string(before->bytes) + " bytes of memory";
    }
    auto after = all.allocations.upper_bound(address);
    if (after != all.allocations.end() && address + PAGE >= reinterpret_cast<uintptr_t>(after->second.pages)) {
        return std::to_string(after->first - address) + " bytes before the start of " +
               std::to_string(after->second.bytes) + " bytes of memory";
    }
    return "where there is no memory of the device";
}

void explain(int signal, siginfo_t* info, void* context) {
    if (simt::running_kernel()) {
        auto stack_pointer = uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RSP]);
        auto address = reinterpret_cast<uintptr_t>(info->si_addr);
        bool is_full = simt::overflows(stack_pointer, address);
        simt::fail_of(stack_pointer, is_full ? "overflows its stack" : ("touches " + whereabouts(address)).c_str());
    }
    const struct sigaction& before = handler_before[signal];
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
    sigaction(signal, &before, nullptr);  // the fault happens again, and ends the process
}

}  // namespace

void explain_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (int signal : {SIGSEGV, SIGBUS}) {
            struct sigaction mine{};
            mine.sa_sigaction = explain;
            mine.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
            sigaction(signal, &mine, &handler_before[signal]);
        }
    });
}

#endif

}  // namespace stand_in

bool stand_in_is_device_memory(const void* address, size_t bytes) {
    return stand_in::is_device_memory(reinterpret_cast<uintptr_t>(address), bytes, __func__);
}
