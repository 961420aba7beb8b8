// The C interface of the native kernels, in float and double; build.py compiles it and loads it with ctypes.
#include "columns.h"
#include "norm.h"
#include "winograd.h"

#define INTERFACE(real, suffix)                                                                                        \
    void winograd_##suffix(const real* x, const real* w, real* y, int T, int n, int H, int W, int K, int C,            \
                           int shared, int turned) {                                                                   \
        Winograd<real>::convolve(x, w, y, T, n, H, W, K, C, shared, turned);                                           \
    }                                                                                                                  \
    void winograd_filters_##suffix(const real* x, const real* dy, real* dw, int T, int n, int H, int W, int K, int C) { \
        Winograd<real>::correlate(x, dy, dw, T, n, H, W, K, C);                                                        \
    }                                                                                                                  \
    void columns_##suffix(const real* x, const real* w, real* y, int T, int n, int H, int W, int K, int C, int kernel, \
                          int stride, int padding, int shared) {                                                       \
        Columns<real>::convolve(x, w, y, T, {n, H, W, C, K, kernel, stride, padding}, shared);                         \
    }                                                                                                                  \
    void columns_turned_##suffix(const real* dy, const real* w, real* dx, int T, int n, int H, int W, int K, int C,    \
                                 int kernel, int stride, int padding, int shared) {                                    \
        Columns<real>::transpose(dy, w, dx, T, {n, H, W, C, K, kernel, stride, padding}, shared);                      \
    }                                                                                                                  \
    void columns_filters_##suffix(const real* x, const real* dy, real* dw, int T, int n, int H, int W, int K, int C,   \
                                  int kernel, int stride, int padding) {                                               \
        Columns<real>::correlate(x, dy, dw, T, {n, H, W, C, K, kernel, stride, padding});                              \
    }                                                                                                                  \
    void norm_##suffix(const real* y, const real* gamma, const real* beta, double eps, real* z, real* mean, real* rstd, \
                       real* best, unsigned char* chosen, int T, int n, int H, int W, int C, int relu, int pool) {     \
        Norm<real>{T, n, H, W, C, !!pool, !!relu, y, gamma, beta, nullptr, nullptr, nullptr, nullptr}.forward(         \
            eps, z, mean, rstd, best, chosen);                                                                         \
    }                                                                                                                  \
    void norm_backward_##suffix(const real* dz, const real* y, const real* gamma, const real* beta, const real* mean,  \
                                const real* rstd, const real* best, const unsigned char* chosen, real* dy,             \
                                real* dgamma, real* dbeta, int T, int n, int H, int W, int C, int relu, int pool) {    \
        Norm<real>{T, n, H, W, C, !!pool, !!relu, y, gamma, beta, mean, rstd, best, chosen}.backward(dz, dy, dgamma,   \
                                                                                                     dbeta);           \
    }                                                                                                                  \
    void norm_second_##suffix(const real* dz, const real* y, const real* gamma, const real* beta, const real* mean,    \
                              const real* rstd, const real* best, const unsigned char* chosen, const real* u,          \
                              const real* a, const real* b, real* d_dz, real* d_y, real* d_gamma, int T, int n, int H, \
                              int W, int C, int relu, int pool) {                                                      \
        Norm<real>{T, n, H, W, C, !!pool, !!relu, y, gamma, beta, mean, rstd, best, chosen}.second(dz, u, a, b, d_dz,  \
                                                                                                   d_y, d_gamma);      \
    }

extern "C" {
INTERFACE(float, f32)
INTERFACE(double, f64)
int vector_width() { return Vectors<float>::N; }  // and half of it in double
}
