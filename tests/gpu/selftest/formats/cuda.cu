// A kernel that is compiled for each storage format, and without one.

#include "device.cuh"

#ifdef FORMAT
enum {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    TQ1_0,
    TQ2_0,
    WINT8,
    WINT4,
    WINT4G32,
    F8_E4M3
};
#define NUMBER int(FORMAT)
#else
#define NUMBER (-1)
#endif

KERNEL(which, 32)(int* y) {
    if (threadIdx.x == 0) {
        y[0] = NUMBER;
        y[1] = int(sizeof(act));
    }
}
