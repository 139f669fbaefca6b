#include "block.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sched.h>
#include <string>

#include "static_shared.hpp"
#include "traffic.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

namespace {

// Behind the end of dynamic shared memory, to find what was written there.
constexpr size_t SHARED_BORDER = 512;
constexpr int SHARED_FILL = 0xff;  // NaN in every floating-point format

thread_local Block* running = nullptr;

void thread_main();

std::string text_of(uint3 index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string text_of(Place place) {
    if (!place.file) return "";
    return std::string(" at ") + place.file + ":" + std::to_string(place.line);
}

// A lane's state for a report.
std::string state_of(const Warp& warp, int lane) {
    if (warp.exited >> lane & 1) return "has exited";
    const Fiber* fiber = warp.fiber[lane];
    if (!fiber) return "has not begun";
    switch (fiber->waiting) {
        case Waiting::Nothing: return "runs";
        case Waiting::Block: return "waits for the block" + text_of(fiber->place);
        case Waiting::Cluster: return "waits for the cluster" + text_of(fiber->place);
        case Waiting::Warp: break;
    }
    char mask[16];
    snprintf(mask, sizeof mask, "%08x", fiber->mask);
    return std::string("waits for lanes ") + mask + text_of(fiber->place);
}

[[noreturn]] void stop(const std::string& message) {
    fprintf(stderr, "stand-in gpu: %s\n", message.c_str());
    fflush(nullptr);
    abort();
}

// How long a block may wait for what others write, before that counts as a hang.
int spin_seconds_max() {
    static const int seconds = [] {
        const char* told = getenv("STAND_IN_SPIN_SECONDS");
        return told ? atoi(told) : 60;
    }();
    return seconds;
}

uint32_t mask_of_size(int size) { return size >= 32 ? FULL_MASK : (1u << size) - 1; }

}  // namespace

namespace {

[[noreturn]] void fail_with(const Fiber& fiber, const char* what, Place place) {
    const Block& block = *fiber.warp->block;
    stop(std::string("kernel ") + block.launch->kernel->name + ", block " + text_of(block.index) + ", thread " +
         text_of(fiber.thread) + ": " + what + text_of(place));
}

}  // namespace

void fail(const char* what, Place place) { fail_with(self(), what, place); }

void fail_of(uintptr_t stack_pointer, const char* what) {
    if (!on_stacks(stack_pointer)) stop(std::string("kernel ") + running_kernel() + ": " + what);
    fail_with(fibers[(stack_pointer - reinterpret_cast<uintptr_t>(stack_range)) >> STACK_BITS], what, {nullptr, 0});
}

const char* running_kernel() { return running ? running->launch->kernel->name : nullptr; }

Block::~Block() { free(shared_area); }

uint32_t positions_of(const Warp& warp, uint32_t lanes) {
    if (lanes == warp.lanes) return mask_of_size(__builtin_popcount(lanes));
    uint32_t positions = 0;
    for (; lanes; lanes &= lanes - 1) positions |= 1u << warp.position_of[__builtin_ctz(lanes)];
    return positions;
}

uint3 Block::thread_index(int number) const {
    unsigned at = unsigned(number);
    return {at % threads.x, at / threads.x % threads.y, at / (threads.x * threads.y)};
}

int next_position(const Warp& warp, int turn, bool wrapping) {
    uint32_t later = turn < WARP_SIZE ? warp.ready >> turn << turn : 0;
    uint32_t candidates = later || !wrapping ? later : warp.ready;
    return candidates ? __builtin_ctz(candidates) : -1;
}

namespace {

// The fiber becomes the thread of a lane.
void become(Fiber& fiber, Warp& warp, int lane) {
    fiber.thread = warp.block->thread_index(warp.first + lane);
    fiber.lane = lane;
    fiber.waiting = Waiting::Nothing;
    fiber.copy_count = 0;
    fiber.copy_group = 0;
    fiber.has_waited = false;
    warp.fiber[lane] = &fiber;
}

// Makes a lane's thread ready on a stack of its own.
void begin_thread(Warp& warp, int lane) {
    Block& block = *warp.block;
    int stack = block.free_stacks[--block.free_stack_count];
    Fiber& fiber = block.stacks.prepare(stack, thread_main);
    fiber.block = &block;
    fiber.warp = &warp;
    become(fiber, warp, lane);
}

void finish_thread(Fiber& fiber) {
    if (fiber.block->may_begin_early && !fiber.has_waited) {
        fail("may begin before the kernel before it has ended, and exits without waiting for that");
    }
    if (fiber.copy_count) fail("exits while an asynchronous copy is pending", fiber.copies[0].place);
    check_products_of(fiber);
    Warp& warp = *fiber.warp;
    Block& block = *warp.block;
    for (int at = 0; at < warp.gathering_count; at++) {
        if (warp.gatherings[at].mask >> fiber.lane & 1) {
            fail("exits, and other lanes of its warp wait for it", warp.gatherings[at].place);
        }
    }
    warp.exited |= 1u << fiber.lane;
    warp.ready &= ~(1u << warp.position_of[fiber.lane]);
    block.exited++;
    if (block.waiting && block.waiting + block.exited == block.thread_count) {
        fail("exits, and the rest of its block waits for it in __syncthreads", block.barrier);
    }
}

// Threads one after another: while the next lane has not begun, it does so on the stack of the one that ended.
void thread_main() {
    arrive_on_new_stack();
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    Block& block = *warp.block;
    const Launch& launch = *block.launch;
    for (;;) {
        launch.kernel->body(launch.parameters);
        finish_thread(fiber);
        int position = next_position(warp, warp.position_of[fiber.lane] + 1, true);
        if (position < 0 || warp.fiber[warp.lane_at[position]]) break;
        become(fiber, warp, warp.lane_at[position]);
    }
    block.free_stacks[block.free_stack_count++] = block.stacks.number(fiber);
    int position = next_position(warp, warp.position_of[fiber.lane] + 1, true);
    const Context& next = position < 0 ? block.scheduler : warp.fiber[warp.lane_at[position]]->context;
    switch_context(fiber.context, next, true);
    abort();
}

}  // namespace

void Block::resume(Warp& warp) {
    int position = next_position(warp, warp.turn, true);
    int lane = warp.lane_at[position];
    if (!warp.fiber[lane]) begin_thread(warp, lane);
    switch_context(scheduler, warp.fiber[lane]->context);
}

void Block::go_on_with(Fiber& fiber, int position) {
    Warp& warp = *fiber.warp;
    int lane = warp.lane_at[position];
    if (!warp.fiber[lane]) begin_thread(warp, lane);
    switch_context(fiber.context, warp.fiber[lane]->context);
}

void Block::leave(Fiber& fiber) {
    int position = next_position(*fiber.warp, fiber.warp->position_of[fiber.lane] + 1, true);
    if (position >= 0) return go_on_with(fiber, position);
    fiber.warp->turn = 0;
    switch_context(fiber.context, scheduler);
}

void Block::give_way(Fiber& fiber, int turn) {
    fiber.warp->turn = turn;
    switch_context(fiber.context, scheduler);
}

void Block::release_barrier() {
    for (int at = 0; at < warp_count; at++) {
        Warp& warp = warps[at];
        warp.at_barrier = 0;
        warp.ready = mask_of_size(__builtin_popcount(warp.lanes));
        warp.turn = 0;
    }
    waiting = 0;
    vote_result = vote_count;
    vote_count = 0;
}

void Block::order_lanes(Warp& warp) {
    int size = __builtin_popcount(warp.lanes);
    for (int at = 0; at < size; at++) warp.lane_at[at] = uint8_t(launch->seed == 1 ? size - 1 - at : at);
    if (launch->seed >= 2) {
        for (int at = size - 1; at > 0; at--) std::swap(warp.lane_at[at], warp.lane_at[random.next() % (at + 1)]);
    }
    for (int at = 0; at < size; at++) warp.position_of[warp.lane_at[at]] = uint8_t(at);
}

void Block::order_warps() {
    for (int at = 0; at < warp_count; at++) warp_order[at] = launch->seed == 1 ? warp_count - 1 - at : at;
    if (launch->seed >= 2) {
        for (int at = warp_count - 1; at > 0; at--) std::swap(warp_order[at], warp_order[random.next() % (at + 1)]);
    }
}

void Block::begin_warps() {
    warp_count = (thread_count + WARP_SIZE - 1) / WARP_SIZE;
    for (int at = 0; at < warp_count; at++) {
        Warp& warp = warps[at];
        int size = std::min(thread_count - at * WARP_SIZE, WARP_SIZE);
        warp.block = this;
        warp.first = at * WARP_SIZE;
        warp.lanes = warp.ready = mask_of_size(size);
        warp.exited = warp.at_barrier = 0;
        warp.turn = warp.gathering_count = 0;
        memset(warp.fiber, 0, sizeof warp.fiber);
        order_lanes(warp);
    }
    free_stack_count = 0;
    for (int stack = thread_count - 1; stack >= 0; stack--) free_stacks[free_stack_count++] = stack;
    waiting = exited = at_cluster_barrier = spun = vote_count = 0;
    warpgroups.begin(thread_count);
}

void Block::reserve_shared(size_t bytes) {
    size_t needed = (bytes + SHARED_BORDER + 127) / 128 * 128;
    if (needed > shared_area_bytes) {
        free(shared_area);
        shared_area = static_cast<char*>(aligned_alloc(128, needed));
        shared_area_bytes = needed;
    }
    dynamic_shared = shared_area;
}

void Block::fill_shared() {
    size_t bytes = launch->dynamic_shared;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(shared_area, shared_area_bytes);
#endif
    memset(shared_area, SHARED_FILL, bytes + SHARED_BORDER);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(shared_area + bytes, shared_area_bytes - bytes);
#endif
}

void Block::check_shared() {
#ifndef __SANITIZE_ADDRESS__
    const char* border = shared_area + launch->dynamic_shared;
    for (size_t at = 0; at < SHARED_BORDER; at++) {
        if (border[at] == char(SHARED_FILL)) continue;
        stop(std::string("kernel ") + launch->kernel->name + ", block " + text_of(index) + ": wrote " +
             std::to_string(at) + " bytes behind its " + std::to_string(launch->dynamic_shared) +
             " bytes of dynamic shared memory");
    }
#endif
}

void Block::report_deadlock() {
    std::string message =
        std::string("kernel ") + launch->kernel->name + ", block " + text_of(index) + ": no thread can go on:";
    std::string last;
    for (int number = 0, told = 0; number < thread_count && told < 12; number++) {
        std::string state = state_of(warps[number / WARP_SIZE], number % WARP_SIZE);
        if (state == last) continue;
        message += "\n  from thread " + text_of(thread_index(number)) + " on: " + state;
        last = state;
        told++;
    }
    stop(message + told_of_barriers(*this));
}

void Block::fail(const char* what, Place place) const {
    stop(std::string("kernel ") + launch->kernel->name + ", block " + text_of(index) + ": " + what + text_of(place));
}

void Block::prepare(uint3 of_grid) {
    index = of_grid;
    phase = Phase::Before;
    reserve_shared(launch->dynamic_shared);
}

void Block::advance() {
    Block* outer = running;
    running = this;
    if (phase == Phase::Before) {
        begin();
    } else if (launch->has_clusters()) {
        restore_static_shared(*launch->kernel, kept_static_shared);
    }
    if (COUNTS) traffic->block = number;
    run();
    if (exited == thread_count) {
        end();
    } else {
        keep_static_shared(*launch->kernel, kept_static_shared);
    }
    running = outer;
}

void Block::release_from_cluster() {
    for (int at = 0; at < warp_count; at++) {
        Warp& warp = warps[at];
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            const Fiber* fiber = warp.exited >> lane & 1 ? nullptr : warp.fiber[lane];
            if (fiber && fiber->waiting == Waiting::Cluster) warp.ready |= 1u << warp.position_of[lane];
        }
    }
    at_cluster_barrier = 0;
}

void Block::begin() {
    phase = Phase::Running;
    if (COUNTS) number = count_block();
    begin_warps();
    fill_shared();
    fill_static_shared(*launch->kernel);
}

void Block::run() {
    time_t spinning_since = 0;
    while (exited < thread_count) {
        bool progress = false;
        spun = 0;
        order_warps();
        for (int at = 0; at < warp_count; at++) {
            Warp& warp = warps[warp_order[at]];
            if (!warp.ready) continue;
            progress = true;
            resume(warp);
        }
        // Who spins may wait for what one brings who waits for a box.
        if ((!progress || spun) && let_box_arrive(*this)) continue;
        if (!progress) {
            if (at_cluster_barrier && at_cluster_barrier + exited == thread_count) return;
            report_deadlock();
        }
        if (!spun) {
            spinning_since = 0;
            continue;
        }
        sched_yield();
        time_t now = time(nullptr);
        if (!spinning_since) spinning_since = now;
        if (now - spinning_since > spin_seconds_max()) {
            stop(std::string("kernel ") + launch->kernel->name + ", block " + text_of(index) +
                 ": waited for more than " + std::to_string(spin_seconds_max()) +
                 " s for what another block, stream or process should write");
        }
    }
}

void Block::end() {
    phase = Phase::Ended;
    if (!warpgroups.agree(warp_count)) fail("warps of a warpgroup began different products", {nullptr, 0});
    if (!warpgroups.boxes.empty()) fail("ends while a box is on its way to it", warpgroups.boxes.front().place);
    check_shared();
}

}  // namespace simt
