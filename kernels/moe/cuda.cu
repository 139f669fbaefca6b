// Mixtures of experts, all but their products (experts/cuda.cu): a router's choice, which visits it makes of tokens and
// experts, and the sum of what the visits brought. Everything is f32 or an index, but for the sum's ends.
//
// Nothing here costs much: 256 tokens with 128 experts are 128 KiB of routes. What counts is that nothing goes to the
// host, and that the work depends on shapes alone, so that a graph of these kernels can be replayed.

#include "device.cuh"

// ---- routes ----

// As `moe::Scoring` counts them.
enum Scoring { SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN };

const int EXPERTS_MAX = 512;
const int ROUTE_WARPS = 4;

struct Routing {
    int chosen, scoring;
    // Experts in groups, of which some are kept; zero groups: no such thing.
    int groups, kept, best_of_group;
    // Whether weights are divided by their sum, or by `least` where that is more.
    bool divides;
    float least, scale;
};

// What a warp notes of its token, to choose groups by.
struct GroupRoom {
    // One word in 33 is left out, so that neighbouring groups of 32 don't lie in the same banks.
    float choice[EXPERTS_MAX + EXPERTS_MAX / 32];
    unsigned worth[EXPERTS_MAX];

    __device__ float& choice_of(int expert) { return choice[expert + expert / 32]; }
};

// An integer that is greater where the float is, −0 before +0 as in IEEE's total order; never zero.
__device__ unsigned ordered(float x) {
    unsigned bits = __float_as_uint(x);
    return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

// The sum of the `count` best experts of a group, the best first; of equal ones the first.
__device__ float sum_of_best(GroupRoom& room, int first, int size, int count) {
    float sum = 0.0f;
    unsigned last = 0xffffffffu;
    int last_at = -1;
    for (int n = 0; n < count; n++) {
        unsigned best = 0;
        int at = 0;
        for (int i = 0; i < size; i++) {
            unsigned key = ordered(room.choice_of(first + i));
            bool is_left = key < last || (key == last && i > last_at);
            if (is_left && key > best) best = key, at = i;
        }
        sum += room.choice_of(first + at);
        last = best, last_at = at;
    }
    return sum;
}

// Takes the experts of all but the best groups out of the choice. Lane l has the experts l + 32 · i.
template <int per_lane>
__device__ void keep_best_groups(float choice[per_lane], int experts, const Routing& routing, GroupRoom& room) {
    int lane = threadIdx.x % 32, size = experts / routing.groups;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        if (lane + 32 * i < experts) room.choice_of(lane + 32 * i) = choice[i];
    }
    __syncwarp();
    for (int group = lane; group < routing.groups; group += 32) {
        room.worth[group] = ordered(sum_of_best(room, group * size, size, routing.best_of_group));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        int own = (lane + 32 * i) / size, better = 0;
        if (own >= routing.groups) continue;
        for (int group = 0; group < routing.groups; group++) {
            better += room.worth[group] > room.worth[own] || (room.worth[group] == room.worth[own] && group < own);
        }
        if (better >= routing.kept) choice[i] = -INFINITE;
    }
}

// Turns the logits of a token into scores.
template <int per_lane>
__device__ void score(float scores[per_lane], int scoring) {
    if (scoring == SOFTMAX) {
        float most = -INFINITE, total = 0.0f;
#pragma unroll
        for (int i = 0; i < per_lane; i++) most = fmaxf(most, scores[i]);
        most = warp_max(most);
#pragma unroll
        for (int i = 0; i < per_lane; i++) total += scores[i] = expf(scores[i] - most);
        total = warp_sum(total);
#pragma unroll
        for (int i = 0; i < per_lane; i++) scores[i] /= total;
    } else if (scoring == SIGMOID) {
#pragma unroll
        for (int i = 0; i < per_lane; i++) scores[i] = 1.0f / (1.0f + expf(-scores[i]));
    }
}

// Chooses the greatest keys one after the other, of equal ones the first; a chosen one becomes zero, which no other is.
// Returns the score of the first that was chosen.
template <int per_lane>
__device__ float choose(unsigned keys[per_lane], const float scores[per_lane], int chosen) {
    int lane = threadIdx.x % 32;
    float first_score = 0.0f;
    for (int n = 0; n < chosen; n++) {
        unsigned best = 0;
        int at = 0;
        float own_score = 0.0f;
#pragma unroll
        for (int i = 0; i < per_lane; i++) {
            if (keys[i] > best) best = keys[i], at = i, own_score = scores[i];
        }
        unsigned best_of_all = __reduce_max_sync(ALL_LANES, best);
        int winner = __reduce_min_sync(ALL_LANES, best == best_of_all ? lane + 32 * at : EXPERTS_MAX);
#pragma unroll
        for (int i = 0; i < per_lane; i++) {
            if (lane + 32 * i == winner) keys[i] = 0;
        }
        if (n == 0) first_score = __shfl_sync(ALL_LANES, own_score, winner % 32);
    }
    return first_score;
}

// A warp per token.
template <int per_lane>
__device__ void route(float* routes, const float* logits, const float* bias, int tokens, int experts, Routing routing) {
    __shared__ GroupRoom rooms[ROUTE_WARPS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int token = blockIdx.x * ROUTE_WARPS + warp;
    if (token >= tokens) return;
    logits += int64_t(token) * experts;
    routes += int64_t(token) * experts;
    float scores[per_lane], choice[per_lane];
#pragma unroll
    for (int i = 0; i < per_lane; i++) scores[i] = lane + 32 * i < experts ? logits[lane + 32 * i] : -INFINITE;
    score<per_lane>(scores, routing.scoring);
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        choice[i] = scores[i] + (bias && lane + 32 * i < experts ? bias[lane + 32 * i] : 0.0f);
    }
    if (routing.groups) keep_best_groups<per_lane>(choice, experts, routing, rooms[warp]);
    unsigned keys[per_lane];
#pragma unroll
    for (int i = 0; i < per_lane; i++) keys[i] = lane + 32 * i < experts ? ordered(choice[i]) : 0;
    float first_score = choose<per_lane>(keys, scores, routing.chosen);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        bool is_chosen = keys[i] == 0 && lane + 32 * i < experts;
        float weight = routing.scoring == SOFTMAX_OF_CHOSEN ? expf(scores[i] - first_score) : scores[i];
        sum += scores[i] = is_chosen ? weight : 0.0f;
    }
    float divisor = routing.divides ? fmaxf(warp_sum(sum), routing.least) : 1.0f;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        if (lane + 32 * i < experts) routes[lane + 32 * i] = scores[i] / divisor * routing.scale;
    }
}

// routes [tokens, experts] from logits of the same shape, and a bias [experts] for choosing or none.
#define ROUTE(per_lane)                                                                                                \
    (float* routes, const float* logits, const float* bias, int tokens, int experts, int chosen, int scoring,          \
     int groups, int kept, int best_of_group, int divides, float least, float scale) {                                 \
        overlap_begin();                                                                                               \
        Routing routing{chosen, scoring, groups, kept, best_of_group, divides != 0, least, scale};                     \
        route<per_lane>(routes, logits, bias, tokens, experts, routing);                                               \
    }

KERNEL(route_128, 128) ROUTE(4)
KERNEL(route_256, 128) ROUTE(8)
KERNEL(route_512, 128) ROUTE(16)

// ---- visits ----
//
// A visit is a token at an expert. Visits are numbered expert by expert, an expert's in the order of the tokens, so that
// results do not depend on who was first. What the products and the sum read:
//   starts [count + 1]        where each expert's visits begin, and where the last one's end
//   tiles [bound]             expert and first visit of each piece of at most `tile` visits of one expert; expert −1: none
//   visitors [visits]         the token of each visit
//   places [tokens, slots]    a token's visits in the order of the experts, each with its expert; visit −1: no more
// `slots` is the most experts of a token. Routes that name more are cut, for the lists have room for no more.

const int WORDS_MAX = EXPERTS_MAX / 32;
const int CHUNK_MAX = 256;

// Which experts some neighbouring tokens visit: a bit for each.
struct Chunk {
    unsigned bits[CHUNK_MAX * WORDS_MAX];
};

struct Own {
    int all, first, count, slots;

    __device__ int words() const { return (count + 31) / 32; }
};

__device__ void read_chunk(Chunk& chunk, const float* routes, Own own, int tokens) {
    const int at_once = 8;
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    int words = own.words(), items = tokens * words;
    for (int start = warp; start < items; start += warps * at_once) {
        float weights[at_once];
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            int item = start + warps * i, expert = item % words * 32 + lane;
            bool is_one = item < items && expert < own.count;
            weights[i] = is_one ? routes[int64_t(item / words) * own.all + own.first + expert] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            unsigned visited = __ballot_sync(ALL_LANES, weights[i] != 0.0f);
            if (lane == 0 && start + warps * i < items) chunk.bits[start + warps * i] = visited;
        }
    }
    __syncthreads();
    for (int token = threadIdx.x; token < tokens; token += blockDim.x) {
        int room = own.slots;
        for (int word = 0; word < words; word++) {
            unsigned& bits = chunk.bits[token * words + word];
            while (__popc(bits) > room) bits &= ~(0x80000000u >> __clz(bits));
            room -= __popc(bits);
        }
    }
    __syncthreads();
}

__device__ int visits_of(const Chunk& chunk, Own own, int expert, int tokens) {
    int visits = 0, words = own.words();
#pragma unroll 4
    for (int token = 0; token < tokens; token++) {
        visits += chunk.bits[token * words + expert / 32] >> expert % 32 & 1;
    }
    return visits;
}

// The sums of what the threads before this one have, and of what all have; `room` is shared, 33 numbers.
__device__ uint64_t block_scan(uint64_t own, uint64_t* room, uint64_t& total) {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    uint64_t sum = own;
    for (int distance = 1; distance < 32; distance *= 2) {
        uint64_t before = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += before;
    }
    if (lane == 31) room[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        uint64_t before = 0;
        for (int i = 0; i < warps; i++) {
            uint64_t of_warp = room[i];
            room[i] = before;
            before += of_warp;
        }
        room[warps] = before;
    }
    __syncthreads();
    total = room[warps];
    return room[warp] + sum - own;
}

// Thread e is expert e and has `visits`.
__device__ void list_tiles(int* starts, int2* tiles, int visits, int count, int tile, int bound) {
    __shared__ uint64_t room[33];
    int own_tiles = (visits + tile - 1) / tile;
    uint64_t total;
    // Both sums at once: tiles in the upper half.
    uint64_t before = block_scan(uint64_t(own_tiles) << 32 | unsigned(visits), room, total);
    int start = int(before), first_tile = int(before >> 32), expert = threadIdx.x;
    if (expert < count) starts[expert] = start;
    if (expert == 0) starts[count] = int(total);
    for (int i = 0; i < own_tiles; i++) tiles[first_tile + i] = make_int2(expert, start + i * tile);
    for (int i = int(total >> 32) + threadIdx.x; i < bound; i += blockDim.x) tiles[i] = make_int2(-1, 0);
}

// Writes down an expert's visits of a chunk, the first of which has the number `visit`.
__device__ void write_visits(int* visitors, int2* places, const Chunk& chunk, Own own, int expert, int visit,
                             int first_token, int tokens) {
    int words = own.words(), word = expert / 32;
    for (int token = 0; token < tokens; token++) {
        const unsigned* bits = chunk.bits + token * words;
        if (!(bits[word] >> expert % 32 & 1)) continue;
        int slot = __popc(bits[word] & ~(ALL_LANES << expert % 32));
        for (int i = 0; i < word; i++) slot += __popc(bits[i]);
        visitors[visit] = first_token + token;
        places[int64_t(first_token + token) * own.slots + slot] = make_int2(visit, expert);
        visit++;
    }
}

// Marks where the lists of a chunk's tokens end.
__device__ void end_places(int2* places, const Chunk& chunk, Own own, int first_token, int tokens) {
    for (int token = threadIdx.x; token < tokens; token += blockDim.x) {
        int slot = 0;
        for (int word = 0; word < own.words(); word++) slot += __popc(chunk.bits[token * own.words() + word]);
        for (; slot < own.slots; slot++) places[int64_t(first_token + token) * own.slots + slot] = make_int2(-1, -1);
    }
}

// Everything at once, by one block: for at most CHUNK_MAX tokens.
KERNEL(find_visits, 1024)
(int* starts, int2* tiles, int* visitors, int2* places, const float* routes, int tokens, int all, int first, int count,
 int slots, int tile, int bound) {
    __shared__ Chunk chunk;
    overlap_begin();
    Own own{all, first, count, slots};
    int expert = threadIdx.x;
    read_chunk(chunk, routes, own, tokens);
    int visits = expert < count ? visits_of(chunk, own, expert, tokens) : 0;
    list_tiles(starts, tiles, visits, count, tile, bound);
    // Visible to the block since the barrier in it: each thread wrote its own start.
    if (expert < count) write_visits(visitors, places, chunk, own, expert, starts[expert], 0, tokens);
    end_places(places, chunk, own, 0, tokens);
}

// The same in three steps, for many tokens, in chunks of `chunk_tokens`. First, counts [chunks, count]: …
KERNEL(count_visits, 512)
(int* counts, const float* routes, int tokens, int all, int first, int count, int slots, int chunk_tokens) {
    __shared__ Chunk chunk;
    Own own{all, first, count, slots};
    int first_token = blockIdx.x * chunk_tokens, expert = threadIdx.x;
    int own_tokens = min(chunk_tokens, tokens - first_token);
    read_chunk(chunk, routes + int64_t(first_token) * all, own, own_tokens);
    if (expert < count) counts[blockIdx.x * count + expert] = visits_of(chunk, own, expert, own_tokens);
}

// … then, by one block, where each expert's visits begin, and in `counts` how many of them come before each chunk; …
KERNEL(place_visits, 512)(int* starts, int2* tiles, int* counts, int chunks, int count, int tile, int bound) {
    const int at_once = 8;
    int expert = threadIdx.x, visits = 0;
    for (int start = 0; expert < count && start < chunks; start += at_once) {
        int own[at_once];
#pragma unroll
        for (int i = 0; i < at_once; i++) own[i] = start + i < chunks ? counts[(start + i) * count + expert] : 0;
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            if (start + i < chunks) counts[(start + i) * count + expert] = visits;
            visits += own[i];
        }
    }
    list_tiles(starts, tiles, visits, count, tile, bound);
}

// … and the lists.
KERNEL(list_visits, 512)
(int* visitors, int2* places, const int* starts, const int* counts, const float* routes, int tokens, int all, int first,
 int count, int slots, int chunk_tokens) {
    __shared__ Chunk chunk;
    Own own{all, first, count, slots};
    int first_token = blockIdx.x * chunk_tokens, expert = threadIdx.x;
    int own_tokens = min(chunk_tokens, tokens - first_token);
    read_chunk(chunk, routes + int64_t(first_token) * all, own, own_tokens);
    if (expert < count) {
        int visit = starts[expert] + counts[blockIdx.x * count + expert];
        write_visits(visitors, places, chunk, own, expert, visit, first_token, own_tokens);
    }
    end_places(places, chunk, own, first_token, own_tokens);
}

// ---- the sum ----

__device__ void load_run(const act* from, float (&to)[8]) { load_8(from, to); }
__device__ void load_run(const act* from, float (&to)[1]) { to[0] = to_float(*from); }
__device__ void store_run(act* to, const float (&from)[8]) { store_8(to, from); }
__device__ void store_run(act* to, const float (&from)[1]) { *to = from_float<act>(from[0]); }

// y = onto + Σ weight · made, over the visits of a token in the order of the experts, `length` neighbouring elements of
// one token to a thread. One rounding at the end.
template <int length>
__device__ void add_run(act* y, const act* onto, const act* made, const int2* places, const float* routes, int all,
                        int first, int slots, int hidden_size) {
    const int at_once = 4;
    int token = blockIdx.x, column = (blockIdx.y * blockDim.x + threadIdx.x) * length;
    if (column >= hidden_size) return;
    int64_t at = int64_t(token) * hidden_size + column;
    float sums[length] = {};
    if (onto) load_run(onto + at, sums);
    places += int64_t(token) * slots;
    routes += int64_t(token) * all + first;
    for (int start = 0; start < slots; start += at_once) {
        float weights[at_once], values[at_once][length];
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            int2 place = start + i < slots ? places[start + i] : make_int2(-1, -1);
            weights[i] = 0.0f;
#pragma unroll
            for (int j = 0; j < length; j++) values[i][j] = 0.0f;
            if (place.x < 0) continue;
            weights[i] = routes[place.y];
            load_run(made + int64_t(place.x) * hidden_size + column, values[i]);
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) {
#pragma unroll
            for (int j = 0; j < length; j++) sums[j] += weights[i] * values[i][j];
        }
    }
    store_run(y + at, sums);
}

// y [tokens, hidden size] may be `onto`, or `onto` null. A block per token and piece of its columns.
KERNEL(add_visits_by_8, 128)
(act* y, const act* onto, const act* made, const int2* places, const float* routes, int all, int first, int slots,
 int hidden_size) {
    overlap_begin();
    add_run<8>(y, onto, made, places, routes, all, first, slots, hidden_size);
}

KERNEL(add_visits_by_1, 128)
(act* y, const act* onto, const act* made, const int2* places, const float* routes, int all, int first, int slots,
 int hidden_size) {
    add_run<1>(y, onto, made, places, routes, all, first, slots, hidden_size);
}
