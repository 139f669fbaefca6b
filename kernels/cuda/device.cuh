// What every kernel source begins with: number formats, reductions, and the few instructions that C++ has no word for.
//
// The same text is compiled by NVRTC for a GPU, and by g++ with -DSIMT for the stand-in of the tests (tests/gpu/simt.hpp),
// which has its own twins of the instructions below. No vendor header is included, so that NVRTC needs no toolkit.
//
// A source is compiled once per type of activations (-DACTIVATION_F32 or -DACTIVATION_BF16), and some also per storage
// format of a weight (-DFORMAT=Q4_0, say). An entry's name carries both: rms_norm_bf16, skinny_q4_0_bf16.

#ifndef SHARDWIRE_DEVICE_CUH
#define SHARDWIRE_DEVICE_CUH

#ifndef SIMT
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define DYNAMIC_SHARED(type, name)                                                                                     \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];                                              \
    type* name = reinterpret_cast<type*>(dynamic_shared_bytes)
#endif

#define ALL_LANES 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)
#define LOG2_E 1.4426950408889634f

// ---- number formats ----

// bfloat16: the upper half of a binary32.
struct bf16 {
    uint16_t bits;
};

// IEEE binary16.
struct f16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(int8_t x) { return float(x); }

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

#ifdef SIMT
__device__ __forceinline__ float to_float(f16 x) { return half_to_float(x.bits); }
#else
__device__ __forceinline__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
#endif

// Rounds to nearest, ties to even, as the hardware's conversions do.
template <class T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{uint16_t(0x7fff)};
    return bf16{uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
#ifdef SIMT
    return f16{float_to_half(x)};
#else
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

// Two numbers as the register of a tensor-core fragment, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef SIMT
    return uint32_t(from_float<bf16>(low).bits) | uint32_t(from_float<bf16>(high).bits) << 16;
#else
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
#ifdef SIMT
    return uint32_t(from_float<f16>(low).bits) | uint32_t(from_float<f16>(high).bits) << 16;
#else
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

__device__ __forceinline__ float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

// Two binary16 minus two others.
__device__ __forceinline__ uint32_t subtract_f16(uint32_t a, uint32_t b) {
#ifdef SIMT
    return pack_f16(half_to_float(uint16_t(a)) - half_to_float(uint16_t(b)),
                    half_to_float(uint16_t(a >> 16)) - half_to_float(uint16_t(b >> 16)));
#else
    uint32_t difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
#endif
}

// 2 to the power of x with a relative error of 2⁻²²; powers below 2⁻¹²⁶ are 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef SIMT
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

#if defined(ACTIVATION_BF16)
typedef bf16 act;
#define ACTIVATION_NAME bf16
#else
typedef float act;
#define ACTIVATION_NAME f32
#endif

// Eight neighbouring numbers; their address is a multiple of 16 bytes.
__device__ __forceinline__ void load_8(const float* from, float to[8]) {
    float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

__device__ __forceinline__ void load_8(const bf16* from, float to[8]) {
    uint4 v = *reinterpret_cast<const uint4*>(from);
    to[0] = low_bf16(v.x), to[1] = high_bf16(v.x), to[2] = low_bf16(v.y), to[3] = high_bf16(v.y);
    to[4] = low_bf16(v.z), to[5] = high_bf16(v.z), to[6] = low_bf16(v.w), to[7] = high_bf16(v.w);
}

__device__ __forceinline__ void store_8(float* to, const float from[8]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

__device__ __forceinline__ void store_8(bf16* to, const float from[8]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                                               pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
}

// Two neighbouring numbers; their address is a multiple of their size.
__device__ __forceinline__ void store_2(float* to, float a, float b) {
    *reinterpret_cast<float2*>(to) = make_float2(a, b);
}

__device__ __forceinline__ void store_2(bf16* to, float a, float b) {
    *reinterpret_cast<uint32_t*>(to) = pack_bf16(a, b);
}

// Four neighbouring numbers; their address is a multiple of their size.
__device__ __forceinline__ void store_4(float* to, float a, float b, float c, float d) {
    *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
}

__device__ __forceinline__ void store_4(bf16* to, float a, float b, float c, float d) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(a, b), pack_bf16(c, d));
}

// Two neighbours of a row; the second only where the row has it.
__device__ __forceinline__ void store_pair(float* to, float first, float second, bool both) {
    if (both && reinterpret_cast<uint64_t>(to) % 8 == 0) {
        *reinterpret_cast<float2*>(to) = make_float2(first, second);
    } else {
        to[0] = first;
        if (both) to[1] = second;
    }
}

__device__ __forceinline__ void store_pair(bf16* to, float first, float second, bool both) {
    if (both && reinterpret_cast<uint64_t>(to) % 4 == 0) {
        *reinterpret_cast<uint32_t*>(to) = pack_bf16(first, second);
    } else {
        to[0] = from_float<bf16>(first);
        if (both) to[1] = from_float<bf16>(second);
    }
}

// ---- reductions ----

__device__ __forceinline__ float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// The sum over a block of whole warps, on all its threads. `room` is shared, 32 floats; it may be used again after the
// next barrier.
__device__ __forceinline__ float block_sum(float x, float* room) {
    x = warp_sum(x);
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : 0.0f);
}

// ---- instructions ----

#ifndef SIMT

// d += a · b, where a is 16 × 16, b 16 × 8 and d 16 × 8, spread over the lanes of a warp (PTX: mma.m16n8k16).
__device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of binary16.
__device__ __forceinline__ void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return uint32_t(__cvta_generic_to_shared(shared));
}

// 8 × 8 matrices of 16-bit elements from shared memory into fragments; lanes 0 to 7 point at the rows of the first, …
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t r[2], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t r[2], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared))
                 : "memory");
}

// 16 bytes from global to shared memory, on their way until `copy_async_wait`; zeros where `valid` is false.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// The same of 4 bytes.
__device__ __forceinline__ void copy_async_4(void* shared, const void* global, bool valid) {
    int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `pending` committed groups of this thread are still on their way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// A word that other GPUs and other kernels read.
__device__ __forceinline__ void store_release_system(uint32_t* to, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t load_acquire_system(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

__device__ __forceinline__ void spin_pause() {}

// ---- kernels that overlap on their stream ----
//
// A kernel whose text waits (`wait_for_last`) is launched so that it may begin while the one before it ends (launch.rs;
// CUDA's "programmatic dependent launch"): from when all blocks of that one have said so, or have ended. Until it has
// waited it may read what no kernel writes – weights, above all – and write nothing. All threads wait, in all blocks, so
// that whoever waits for it has waited for all that was before. GPUs before compute capability 9.0 know nothing of it.

// The kernel behind this one may begin, once all blocks of this one have come here.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until the kernel before this one has ended, and what it wrote can be read.
__device__ __forceinline__ void wait_for_last() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif  // SIMT

// For kernels that have nothing to do before they wait.
__device__ __forceinline__ void overlap_begin() {
    let_next_begin();
    wait_for_last();
}

#endif  // SHARDWIRE_DEVICE_CUH

// ---- entries: outside of the guard, for the names depend on what is compiled ----

#undef KERNEL
#undef ENTRY_NAME
#define JOIN_2(a, b) JOIN_2_EXPANDED(a, b)
#define JOIN_2_EXPANDED(a, b) a##_##b
#ifdef FORMAT_NAME
#define ENTRY_NAME(name) JOIN_2(JOIN_2(name, FORMAT_NAME), ACTIVATION_NAME)
#else
#define ENTRY_NAME(name) JOIN_2(name, ACTIVATION_NAME)
#endif
#ifdef SIMT
#define KERNEL(name, threads) static void ENTRY_NAME(name)
#elif defined(BLOCKS_AT_LEAST)
// A source that says how many blocks a multiprocessor shall hold: registers are spent freely up to there, where the
// compiler would spill some for one block more.
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads, BLOCKS_AT_LEAST) ENTRY_NAME(name)
#else
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) ENTRY_NAME(name)
#endif
