// Instructions of GPUs of compute capability 9.0 (sm_90a): products of a whole warpgroup, which read their factors from
// shared memory by themselves, and barriers that lie in shared memory.
//
// A warpgroup is four warps, the first of which is a multiple of four. Its products are asynchronous: they begin after
// `warpgroup_fence`, belong to the group that the next `warpgroup_commit` ends, and their sums may be read, and their
// factors overwritten, after a `warpgroup_wait`. They read shared memory by another way than threads do (the async
// proxy): what threads wrote there, cp.async too, must be handed over by `fence_async_proxy`.
//
// The stand-in of the tests has its twins in tests/gpu/simt/warpgroups.hpp.

#ifndef SHARDWIRE_WARPGROUPS_CUH
#define SHARDWIRE_WARPGROUPS_CUH

#include "device.cuh"

#ifndef SIMT

// A barrier's phase is over when so many have arrived; the next one begins at once.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// The same, and the phase is not over before copies have brought so many bytes more (tensor_map.cuh).
__device__ __forceinline__ void barrier_arrive_expecting(uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Until a phase is over: the first, third, … by parity 0, the others by parity 1.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) {
    uint32_t address = shared_address(barrier);
    // The last brace begins no line, for scripts/cuda-kernels would take it for the entry's.
    asm volatile(
        "{\n"
        ".reg .pred over;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@over bra OVER;\n"
        "bra AGAIN;\n"
        "OVER:\n"
        " }\n" ::"r"(address), "r"(parity)
        : "memory");
}

// What this thread wrote to shared memory, barriers that it initialized among it, is there for products and copies of
// boxes from now on.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// 16 bytes that products are going to read.
__device__ __forceinline__ void store_factors(void* shared, uint4 value) { *reinterpret_cast<uint4*>(shared) = value; }

// Registers of each thread from now on; what some warpgroups give, others of the block may take.
template <int registers>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// The sums that a thread has of 64 × 32, 64 × 64 or 64 × 128, as operands of an instruction.
#define WARPGROUP_EIGHT(d, at) \
    "+f"(d[at]), "+f"(d[at + 1]), "+f"(d[at + 2]), "+f"(d[at + 3]), "+f"(d[at + 4]), "+f"(d[at + 5]), \
        "+f"(d[at + 6]), "+f"(d[at + 7])
#define WARPGROUP_SUMS_16(d) WARPGROUP_EIGHT(d, 0), WARPGROUP_EIGHT(d, 8)
#define WARPGROUP_SUMS_32(d) WARPGROUP_SUMS_16(d), WARPGROUP_EIGHT(d, 16), WARPGROUP_EIGHT(d, 24)
#define WARPGROUP_SUMS(d) \
    WARPGROUP_SUMS_32(d), WARPGROUP_EIGHT(d, 32), WARPGROUP_EIGHT(d, 40), WARPGROUP_EIGHT(d, 48), WARPGROUP_EIGHT(d, 56)
#define WARPGROUP_SUM_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define WARPGROUP_SUM_NAMES_32 \
    WARPGROUP_SUM_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WARPGROUP_SUM_NAMES \
    WARPGROUP_SUM_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52," \
    "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// Until at most `pending` groups are still on their way. `d` are sums that are read afterwards: the compiler must not
// think that they are there before.
template <int pending>
__device__ __forceinline__ void warpgroup_wait(float (&d)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %64;" : WARPGROUP_SUMS(d) : "n"(pending) : "memory");
}

template <int pending>
__device__ __forceinline__ void warpgroup_wait(float (&d)[32]) {
    asm volatile("wgmma.wait_group.sync.aligned %32;" : WARPGROUP_SUMS_32(d) : "n"(pending) : "memory");
}

template <int pending>
__device__ __forceinline__ void warpgroup_wait(float (&d)[16]) {
    asm volatile("wgmma.wait_group.sync.aligned %16;" : WARPGROUP_SUMS_16(d) : "n"(pending) : "memory");
}

// The same where sums are but added to further: factors may be overwritten.
template <int pending>
__device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// d = a · bᵀ, or d += a · bᵀ, of 64 × 16 and 128 × 16 elements whose rows lie along 16 (PTX: wgmma m64n128k16).
#define WARPGROUP_PRODUCT_OF_SHARED(name, type)                                                                        \
    __device__ __forceinline__ void name(float (&d)[64], uint64_t a, uint64_t b, bool adds) {                          \
        asm volatile(                                                                                                  \
            "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"                                                         \
            "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" WARPGROUP_SUM_NAMES                      \
            "}, %64, %65, adds, 1, 1, 0, 0;\n}\n"                                                                      \
            : WARPGROUP_SUMS(d)                                                                                        \
            : "l"(a), "l"(b), "r"(int(adds)));                                                                         \
    }
WARPGROUP_PRODUCT_OF_SHARED(warpgroup_rows_bf16, "bf16")
WARPGROUP_PRODUCT_OF_SHARED(warpgroup_rows_f16, "f16")

// d += a · b, where a is 64 × 16 in registers, for each warp as mma.m16n8k16 has it, and b is 16 × 128 with rows along
// 128.
#define WARPGROUP_PRODUCT_OF_REGISTERS(name, type)                                                                     \
    __device__ __forceinline__ void name(float (&d)[64], const uint32_t* a, uint64_t b) {                              \
        asm volatile(                                                                                                  \
            "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" WARPGROUP_SUM_NAMES                      \
            "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"                                                                 \
            : WARPGROUP_SUMS(d)                                                                                        \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                     \
    }
WARPGROUP_PRODUCT_OF_REGISTERS(warpgroup_columns_bf16, "bf16")
WARPGROUP_PRODUCT_OF_REGISTERS(warpgroup_columns_f16, "f16")

// d += a · bᵀ, with such an a, and b of 32, 64 or 128 rows that lie along 16.
__device__ __forceinline__ void warpgroup_add_bf16(float (&d)[16], const uint32_t* a, uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" WARPGROUP_SUM_NAMES_16
                 "}, {%16,%17,%18,%19}, %20, adds, 1, 1, 0;\n}\n"
                 : WARPGROUP_SUMS_16(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)));
}

__device__ __forceinline__ void warpgroup_add_bf16(float (&d)[32], const uint32_t* a, uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WARPGROUP_SUM_NAMES_32
                 "}, {%32,%33,%34,%35}, %36, adds, 1, 1, 0;\n}\n"
                 : WARPGROUP_SUMS_32(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)));
}

__device__ __forceinline__ void warpgroup_add_bf16(float (&d)[64], const uint32_t* a, uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WARPGROUP_SUM_NAMES
                 "}, {%64,%65,%66,%67}, %68, adds, 1, 1, 0;\n}\n"
                 : WARPGROUP_SUMS(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)));
}

#endif  // SIMT

// Tiles of shared memory as products read them, with rows of 128 bytes whose pieces of 16 bytes change places: in row
// r, piece p lies at p XOR (r mod 8), so that the same piece of eight rows is in eight groups of banks. (PTX: 128-byte
// swizzle; the address of a tile is a multiple of 1,024.)
#define SWIZZLED_ROW 128
#define SWIZZLED_ALIGNMENT 1024

__device__ __forceinline__ int swizzled_piece(int row, int piece) {
    return row * SWIZZLED_ROW + (piece ^ row % 8) * 16;
}

// What a product is told of such a tile: where its part begins, how far apart its groups of eight rows are, and, where
// rows are longer than 128 bytes and lie along the result's columns, how far the next 128 bytes of them.
__device__ __forceinline__ uint64_t swizzled_tile(const void* first, int next_columns) {
    uint64_t address = shared_address(first) >> 4, leading = next_columns >> 4, stride = 8 * SWIZZLED_ROW >> 4;
    return address | leading << 16 | stride << 32 | uint64_t(1) << 62;
}

// The same of a part that begins so many bytes further on. Addresses have 14 bits, which suffice for all of shared memory.
__device__ __forceinline__ uint64_t further_on(uint64_t tile, int bytes) {
    return (tile & 0xffffffff00000000u) | uint32_t(uint32_t(tile) + uint32_t(bytes >> 4));
}

#endif  // SHARDWIRE_WARPGROUPS_CUH
