// Products of warpgroups as a GPU may at worst do them: factors are read when a product begins, and must be the same when
// it is waited for; sums are NaN in between.
#include "warpgroups.hpp"

#include <algorithm>
#include <cstring>

#include "block.hpp"
#include "traffic.hpp"

namespace simt {

namespace {

constexpr int ROWS = 16;  // of a warp
constexpr int COLUMNS = 128;  // at most
constexpr int DEPTH = 16;
constexpr int REGISTERS = 4;
constexpr int WARPS = 4;  // of a warpgroup
constexpr int POISON = 0xff;
constexpr uint32_t SYSTEM_SHARED = 1024;  // lies before a block's own
constexpr int REGISTERS_OF_QUARTER = 16384, QUARTERS = 4, REGISTER_UNIT = 8;  // of a multiprocessor

Block& block_of(Fiber& fiber) { return *fiber.warp->block; }

WarpProducts& products_of(Fiber& fiber) {
    Block& block = block_of(fiber);
    return block.warpgroups.warps[fiber.warp - block.warps];
}

}  // namespace

// ---- the async proxy ----

namespace {

constexpr size_t CHUNK = 16;

}  // namespace

int number_of(const Fiber& fiber) { return fiber.warp->first + fiber.lane; }

void note_unfenced(const void* shared, size_t bytes) {
    Fiber& fiber = self();
    Block& block = block_of(fiber);
    size_t offset = size_t(static_cast<const char*>(shared) - block.dynamic_shared);
    if (offset >= block.launch->dynamic_shared) return;
    Warpgroups& state = block.warpgroups;
    uint16_t number = uint16_t(number_of(fiber) + 1);
    state.writer.resize(block.launch->dynamic_shared / CHUNK + 1);
    for (size_t at = offset / CHUNK; at <= (offset + bytes - 1) / CHUNK; at++) {
        if (state.writer[at] == number) continue;
        state.writer[at] = number;
        state.written[number - 1].push_back(uint32_t(at));
    }
}

void fence_proxy() {
    Fiber& fiber = self();
    Warpgroups& state = block_of(fiber).warpgroups;
    int number = number_of(fiber);
    for (uint32_t at : state.written[number]) {
        if (state.writer[at] == number + 1) state.writer[at] = 0;
    }
    state.written[number].clear();
    auto is_own = [&](const UnfencedBarrier& of) { return of.thread == number; };
    std::vector<UnfencedBarrier>& barriers = state.unfenced_barriers;
    barriers.erase(std::remove_if(barriers.begin(), barriers.end(), is_own), barriers.end());
}

bool is_unfenced(const Block& block, const char* shared, size_t bytes) {
    const std::vector<uint16_t>& writer = block.warpgroups.writer;
    size_t offset = size_t(shared - block.dynamic_shared), last = (offset + bytes - 1) / CHUNK;
    for (size_t at = offset / CHUNK; at <= last && at < writer.size(); at++) {
        if (writer[at]) return true;
    }
    return false;
}

uint32_t address_in_shared(const void* shared, Place place) {
    Block& block = block_of(self());
    size_t offset = size_t(static_cast<const char*>(shared) - block.dynamic_shared);
    if (offset >= block.launch->dynamic_shared) fail("asks for an address beyond its dynamic shared memory", place);
    return uint32_t(SYSTEM_SHARED + (block.launch->static_shared + 15) / 16 * 16 + offset);
}

// ---- registers ----

void have_registers(int registers, Place place) {
    Fiber& fiber = self();
    Block& block = block_of(fiber);
    if (registers % 8 || registers < 24 || registers > 256) fail("wants a number of registers that can't be", place);
    products_of(fiber).registers = registers;
    // What each warp is given at most where a multiprocessor has one block; no more is there to be shared.
    int warps_of_quarter = (block.warp_count + QUARTERS - 1) / QUARTERS;
    int given = REGISTERS_OF_QUARTER / warps_of_quarter / WARP_SIZE / REGISTER_UNIT * REGISTER_UNIT, total = 0;
    for (int at = 0; at < block.warp_count; at++) total += block.warpgroups.warps[at].registers;
    if (total > given * block.warp_count) fail("wants more registers than others gave", place);
}

// ---- products ----

namespace {

// All lanes of a warp come here; one does the work, with what each brought.
template <class Work>
void together(const WarpgroupProduct* product, Place place, Work work) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    WarpProducts& own = products_of(fiber);
    int first = int(&warp - warp.block->warps) / WARPS * WARPS;
    if (warp.block->warp_count < first + WARPS) fail("is in no warpgroup: its block has too few warps", place);
    if (!own.arrived) {
        own.line = place.line;
        own.done = false;
    } else if (own.line != place.line) {
        fail("lanes of a warp are in different operations of their warpgroup", place);
    }
    own.arrived++;
    own.brought[fiber.lane] = product;
    meet(WarpOperation::Sync, FULL_MASK, {}, place);
    if (!own.done) {
        own.done = true;
        own.arrived = 0;
        work(own);
    }
    meet(WarpOperation::Sync, FULL_MASK, {}, place);
}

// A descriptor of a matrix in shared memory (PTX ISA, "Matrix Descriptor Format").
struct Descriptor {
    uint32_t address, leading, stride;

    Descriptor(uint64_t bits, Place place) {
        address = uint32_t(bits & 0x3fff) << 4;
        leading = uint32_t(bits >> 16 & 0x3fff) << 4;
        stride = uint32_t(bits >> 32 & 0x3fff) << 4;
        if (bits >> 49 & 7) fail("gives a product a matrix with a base offset, which is not modelled", place);
        if (bits >> 62 != 1) fail("gives a product a matrix of another swizzle than 128 bytes: not modelled", place);
    }

    // Of eight elements along the rows' 16: where they begin.
    uint32_t along(int row, int k) const {
        return address + uint32_t(row / 8) * stride + uint32_t(row % 8) * 128 + uint32_t(k) * 2;
    }

    // Of eight elements along the columns.
    uint32_t across(int column, int k) const {
        return address + uint32_t(column / 64) * leading + uint32_t(column % 64) * 2 + uint32_t(k / 8) * stride +
               uint32_t(k % 8) * 128;
    }
};

// Sixteen bytes at an address, whose bits 4 to 6 are changed by bits 7 to 9.
const uint16_t* piece(Block& block, uint32_t address, Place place) {
    address ^= (address >> 7 & 7) << 4;
    uint32_t start = address_in_shared(block.dynamic_shared, place);
    if (address < start || address + CHUNK > start + block.launch->dynamic_shared) {
        fail("a product reads beyond dynamic shared memory", place);
    }
    const char* at = block.dynamic_shared + (address - start);
    if (is_unfenced(block, at, CHUNK)) {
        fail("a product reads what a thread wrote, and did not hand over to the async proxy", place);
    }
    return reinterpret_cast<const uint16_t*>(at);
}

// [k][column]
void read_right(Block& block, const ProductReading& reading, uint16_t (&to)[DEPTH * COLUMNS]) {
    Descriptor matrix(reading.right, reading.place);
    if (reading.is_transposed) {
        for (int k = 0; k < DEPTH; k++) {
            for (int column = 0; column < reading.columns; column += 8) {
                memcpy(to + k * COLUMNS + column, piece(block, matrix.across(column, k), reading.place), CHUNK);
            }
        }
        return;
    }
    for (int column = 0; column < reading.columns; column++) {
        for (int k = 0; k < DEPTH; k += 8) {
            const uint16_t* from = piece(block, matrix.along(column, k), reading.place);
            for (int i = 0; i < 8; i++) to[(k + i) * COLUMNS + column] = from[i];
        }
    }
}

// [row][k], of the warp's rows
void read_left(Block& block, const ProductReading& reading, uint16_t (&to)[ROWS * DEPTH]) {
    if (reading.registers[0]) {
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            for (int part = 0; part < REGISTERS; part++) {
                int row = lane / 4 + part % 2 * 8, k = lane % 4 * 2 + part / 2 * 8;
                memcpy(to + row * DEPTH + k, reading.registers[lane] + part, 4);
            }
        }
        return;
    }
    Descriptor matrix(reading.left, reading.place);
    for (int row = 0; row < ROWS; row++) {
        for (int k = 0; k < DEPTH; k += 8) {
            const uint16_t* from = piece(block, matrix.along(reading.first_row + row, k), reading.place);
            memcpy(to + row * DEPTH + k, from, CHUNK);
        }
    }
}

float number(uint16_t bits, bool is_bf16) {
    if (!is_bf16) return half_to_float(bits);
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

typedef float Eight __attribute__((vector_size(32)));

void add_product(const ProductReading& reading, bool is_bf16, ProductSums& sums) {
    static thread_local Eight right[DEPTH][COLUMNS / 8];
    for (int k = 0; k < DEPTH; k++) {
        for (int column = 0; column < reading.columns; column++) {
            right[k][column / 8][column % 8] = number(reading.read_right[k * COLUMNS + column], is_bf16);
        }
    }
    for (int row = 0; row < ROWS; row++) {
        float left[DEPTH];
        for (int k = 0; k < DEPTH; k++) left[k] = number(reading.read_left[row * DEPTH + k], is_bf16);
        for (int eight = 0; eight < reading.columns / 8; eight++) {
            Eight sum = {};
            for (int k = 0; k < DEPTH; k++) sum += left[k] * right[k][eight];
            for (int column = 0; column < 8; column++) {
                sums.values[row % 8 * 4 + column / 2][eight * 4 + row / 8 * 2 + column % 2] += sum[column];
            }
        }
    }
}

ProductSums& sums_of(WarpProducts& own, bool adds, int count) {
    auto found = std::find_if(own.sums.begin(), own.sums.end(),
                              [&](const ProductSums& sums) { return sums.to[0] == own.brought[0]->sums; });
    bool is_new = found == own.sums.end();
    ProductSums& sums = is_new ? own.sums.emplace_back() : *found;
    size_t bytes = size_t(count) * sizeof(float);
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        float* to = sums.to[lane] = own.brought[lane]->sums;
        if (!adds) {
            memset(sums.values[lane], 0, bytes);
        } else if (is_new) {
            memcpy(sums.values[lane], to, bytes);
        }
        memset(to, POISON, bytes);
    }
    sums.group = own.group;
    sums.count = count;
    return sums;
}

void begin_product(WarpProducts& own, int warp, Place place) {
    Block& block = block_of(self());
    const WarpgroupProduct& first = *own.brought[0];
    ProductReading& reading = own.readings.emplace_back();
    reading = {};
    reading.group = own.group;
    reading.place = place;
    reading.left = first.left;
    reading.right = first.right;
    reading.is_transposed = first.is_transposed;
    reading.columns = first.columns;
    reading.first_row = warp % WARPS * ROWS;
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        const WarpgroupProduct& brought = *own.brought[lane];
        if (brought.left != first.left || brought.right != first.right || brought.adds != first.adds) {
            fail("lanes of a warp give a product different matrices", place);
        }
        reading.registers[lane] = brought.registers;
    }
    read_left(block, reading, reading.read_left);
    read_right(block, reading, reading.read_right);
    add_product(reading, first.is_bf16, sums_of(own, first.adds, first.columns / 2));
    // What all warps of the warpgroup must have in common.
    for (uint64_t part : {first.left, first.right, uint64_t(place.line), uint64_t(first.adds)}) {
        own.history = (own.history ^ part) * 0x100000001b3;
    }
    if (COUNTS) block.traffic->tensor_operations += uint64_t(2 * ROWS * first.columns * DEPTH);
}

void end_products(WarpProducts& own, int groups_left, Place place) {
    Block& block = block_of(self());
    auto is_over = [&](int group) { return group < own.group - groups_left; };
    for (const ProductReading& reading : own.readings) {
        if (!is_over(reading.group)) continue;
        uint16_t left[ROWS * DEPTH], right[DEPTH * COLUMNS] = {};
        read_left(block, reading, left);
        read_right(block, reading, right);
        if (memcmp(left, reading.read_left, sizeof left) || memcmp(right, reading.read_right, sizeof right)) {
            fail("the factors of a product changed before it was waited for", reading.place);
        }
    }
    for (const ProductSums& sums : own.sums) {
        if (!is_over(sums.group)) continue;
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            const unsigned char* bytes = reinterpret_cast<const unsigned char*>(sums.to[lane]);
            auto is_touched = [](unsigned char byte) { return byte != POISON; };
            size_t size = size_t(sums.count) * sizeof(float);
            if (std::any_of(bytes, bytes + size, is_touched)) {
                fail("the sums of a product were written before it was waited for", place);
            }
            memcpy(sums.to[lane], sums.values[lane], size);
        }
    }
    own.readings.remove_if([&](const ProductReading& reading) { return is_over(reading.group); });
    own.sums.remove_if([&](const ProductSums& sums) { return is_over(sums.group); });
}

}  // namespace

void multiply_warpgroup(const WarpgroupProduct& product, Place place) {
    together(&product, place, [&](WarpProducts& own) {
        if (!own.is_fenced) fail("begins a product of its warpgroup without a fence before it", place);
        begin_product(own, int(self().warp - block_of(self()).warps), place);
    });
}

void fence_warpgroup(Place place) {
    together(nullptr, place, [](WarpProducts& own) { own.is_fenced = true; });
}

void commit_warpgroup(Place place) {
    together(nullptr, place, [](WarpProducts& own) {
        own.group++;
        own.is_fenced = false;
    });
}

void wait_warpgroup(int groups_left, Place place) {
    together(nullptr, place, [&](WarpProducts& own) { end_products(own, groups_left, place); });
}

void check_products_of(Fiber& fiber) {
    const WarpProducts& own = products_of(fiber);
    if (!own.readings.empty()) fail("exits while a product of its warpgroup is pending", own.readings.front().place);
}

void Warpgroups::begin(int threads) {
    for (int at = 0; at < (threads + WARP_SIZE - 1) / WARP_SIZE; at++) warps[at] = {};
    waiters.clear();
    boxes.clear();
    unfenced_barriers.clear();
    writer.clear();
    written.resize(BLOCK_THREADS_MAX);
    for (int at = 0; at < threads; at++) written[at].clear();
}

bool Warpgroups::agree(int warp_count) const {
    for (int at = 0; at < warp_count; at++) {
        if (warps[at].history != warps[at / WARPS * WARPS].history) return false;
    }
    return true;
}

}  // namespace simt
