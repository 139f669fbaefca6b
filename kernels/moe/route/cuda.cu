// A router's choice: of each token's logits the weights of the experts that it goes to. All of it is f32.
//
// A warp per token, which has everything in registers. 8192 tokens with 128 experts read and write 4 MB each, 2.5 µs at
// 3.35 TB/s. A few tokens are a matter of latency: choosing 8 is as many rounds of two reductions of a warp, half a
// microsecond in all.

#include "device.cuh"

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
