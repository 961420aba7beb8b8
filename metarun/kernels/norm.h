// Batch norm with the batch's own statistics, then (where asked) ReLU, then (where asked) 2x2 max-pooling, as one
// operation with its first and second derivative. All arrays are channels last: y [T][n][H][W][C], and pooled ones
// [T][n][H/2][W/2][C].
//
// Normalising is monotone in each channel, so the largest normalised value of a window is the largest y of it (the
// smallest where gamma < 0): pool first, and normalise a quarter of the values.
#pragma once
#include <cmath>
#include "native.h"

template <typename real>
struct Norm {
    typedef typename Vectors<real>::type vec;
    typedef decltype(vec{} < vec{}) mask;  // integers of real's width, 0 or -1
    typedef unsigned char byte;
    typedef byte bytes __attribute__((vector_size(Vectors<real>::N), aligned(1)));
    static constexpr int N = Vectors<real>::N;
    static constexpr byte DEAD = 4;  // in `chosen`: no entry of the window passes a gradient on

    int T, n, H, W, C;
    bool pool, relu;
    const real *y, *gamma, *beta, *mean, *rstd;  // gamma, beta, mean, rstd: [T][C]
    const real* best;                            // [T][n][H/2][W/2][C] the y that its window passes on, where pooling
    const byte* chosen;                          // same shape: which of the window's four it is, or DEAD

    int h() const { return pool ? H / 2 : H; }
    int w() const { return pool ? W / 2 : W; }
    long pixels() const { return (long)H * W; }
    long cells() const { return (long)h() * w(); }  // pixels of the result

    static vec load(const real* p) { return *(const vec*)p; }
    static void store(real* p, vec v) { *(vec*)p = v; }
    static vec keep(mask m, vec v) { return (vec)((mask)v & m); }

    // Sums over the images of each task of what one(image, out) adds to out [count][C] -> result [T][count][C]
    template <typename F>
    void sum_images(int count, real* result, F one) const {
        std::vector<real> partial((size_t)T * n * count * C, 0);
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) one(image, partial.data() + image * count * C);
        for (long t = 0; t < T; t++)
            for (long i = 0; i < (long)count * C; i++) {
                real sum = 0;
                for (long image = t * n; image < (t + 1) * n; image++) sum += partial[image * count * C + i];
                result[t * count * C + i] = sum;
            }
    }
    static void add(real* to, vec v) { store(to, load(to) + v); }

    void forward(real eps, real* z, real* mean_out, real* rstd_out, real* best_out, byte* chosen_out) const {
        // mean and sum of squared deviations of each image, then joined (Chan et al. 1979)
        std::vector<real> partial((size_t)T * n * 2 * C, 0);
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const real *from = y + image * pixels() * C, *g = gamma + image / n * C;
            real *middle = &partial[image * 2 * C], *squares = middle + C;
            for (long p = 0; p < pixels(); p++)
                for (int c = 0; c < C; c += N) add(middle + c, load(from + p * C + c));
            for (int c = 0; c < C; c += N) store(middle + c, load(middle + c) / (real)pixels());
            for (long p = 0; p < pixels(); p++)
                for (int c = 0; c < C; c += N) {
                    const vec d = load(from + p * C + c) - load(middle + c);
                    add(squares + c, d * d);
                }
            for (int i = 0; pool && i < h(); i++)
                for (int j = 0; j < w(); j++)
                    for (int c = 0; c < C; c += N) {
                        const real* corner = from + ((long)2 * i * W + 2 * j) * C + c;
                        const mask falling = load(g + c) < 0;
                        vec top = load(corner);
                        mask which = {};
                        UNROLL for (int k = 1; k < 4; k++) {
                            const vec v = load(corner + ((long)(k / 2) * W + k % 2) * C);
                            const mask better = falling ? v < top : v > top;
                            top = better ? v : top;
                            which = better ? mask{} + k : which;
                        }
                        const long cell = (image * cells() + (long)i * w() + j) * C + c;
                        store(best_out + cell, top);
                        *(bytes*)(chosen_out + cell) = __builtin_convertvector(which, bytes);
                    }
        }
        for (long t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                double sum = 0, squares = 0;
                for (long image = t * n; image < (t + 1) * n; image++) sum += partial[image * 2 * C + c];
                const double middle = sum / n;
                for (long image = t * n; image < (t + 1) * n; image++) {
                    const double d = partial[image * 2 * C + c] - middle;
                    squares += partial[(image * 2 + 1) * C + c] + d * d * pixels();
                }
                mean_out[t * C + c] = middle;
                rstd_out[t * C + c] = 1 / std::sqrt(squares / (n * pixels()) + eps);
            }
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            for (long p = 0; p < cells(); p++)
                for (int c = 0; c < C; c += N) {
                    const long cell = (image * cells() + p) * C + c;
                    const vec scale = load(rstd_out + t * C + c) * load(gamma + t * C + c);
                    const vec value = load((pool ? best_out : y) + cell);
                    vec v = (value - load(mean_out + t * C + c)) * scale + load(beta + t * C + c);
                    if (relu) {
                        const mask alive = v > 0 || v != v;
                        v = keep(alive, v);
                        if (pool) {
                            bytes& which = *(bytes*)(chosen_out + cell);
                            const mask now = alive ? __builtin_convertvector(which, mask) : mask{} + DEAD;
                            which = __builtin_convertvector(now, bytes);
                        }
                    }
                    store(z + cell, v);
                }
        }
    }

    // What a task's derivatives need of it, channel by channel
    struct Channels {
        std::vector<real> m, r, scale, shift;
        Channels(const Norm& of, long t)
            : m(of.mean + t * of.C, of.mean + (t + 1) * of.C), r(of.rstd + t * of.C, of.rstd + (t + 1) * of.C),
              scale(of.C), shift(of.beta + t * of.C, of.beta + (t + 1) * of.C) {
            for (int c = 0; c < of.C; c++) scale[c] = r[c] * of.gamma[t * of.C + c];
        }
    };
    mask alive(const Channels& k, vec value, int c) const {
        return (value - load(&k.m[c])) * load(&k.scale[c]) + load(&k.shift[c]) > 0;
    }

    // one(offset, c, y, g) for each vector of an image, g the gradient that arrives there through ReLU and pooling
    template <typename F>
    void each_value(const Channels& k, const real* dz, long image, F one) const {
        const long first = image * pixels() * C;
        if (!pool) {
            for (long p = 0; p < pixels(); p++)
                for (int c = 0; c < C; c += N) {
                    const long at = first + p * C + c;
                    const vec value = load(y + at), g = load(dz + at);
                    one(at, c, value, relu ? keep(alive(k, value, c), g) : g);
                }
            return;
        }
        for (int i = 0; i < H; i += 2)
            for (int j = 0; j < W; j += 2) {
                const bool whole = i / 2 < h() && j / 2 < w();  // of the windows at odd borders nothing is pooled
                const long cell = (image * cells() + (long)(i / 2) * w() + j / 2) * C;
                for (int c = 0; c < C; c += N) {
                    const vec g = whole ? load(dz + cell + c) : vec{};
                    const mask which = whole ? __builtin_convertvector(*(const bytes*)(chosen + cell + c), mask) : mask{};
                    UNROLL for (int q = 0; q < 4; q++) {
                        if (i + q / 2 >= H || j + q % 2 >= W) continue;
                        const long at = first + ((long)(i + q / 2) * W + j + q % 2) * C + c;
                        one(at, c, load(y + at), keep(which == q, g));
                    }
                }
            }
    }

    // sum g and sum g x^ over the batch -> sums [T][2][C]
    void gradient_sums(const real* dz, real* sums) const {
        sum_images(2, sums, [&](long image, real* out) {
            const Channels k(*this, image / n);
            for (long p = 0; p < cells(); p++)
                for (int c = 0; c < C; c += N) {
                    const long cell = (image * cells() + p) * C + c;
                    const vec value = load((pool ? best : y) + cell);
                    vec g = load(dz + cell);
                    if (pool) g = keep(__builtin_convertvector(*(const bytes*)(chosen + cell), mask) != DEAD, g);
                    else if (relu) g = keep(alive(k, value, c), g);
                    add(out + c, g);
                    add(out + C + c, g * ((value - load(&k.m[c])) * load(&k.r[c])));
                }
        });
    }

    // dy = gamma r (g - mean g - x^ mean(g x^)), dgamma = sum g x^, dbeta = sum g
    void backward(const real* dz, real* dy, real* dgamma, real* dbeta) const {
        std::vector<real> sums((size_t)T * 2 * C);
        gradient_sums(dz, sums.data());
        const real count = (real)n * pixels();
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            const Channels k(*this, t);
            std::vector<real> on_y(C), constant(C);  // dy = scale g + on_y y + constant
            for (int c = 0; c < C; c++) {
                const real g = sums[t * 2 * C + c], gx = sums[(t * 2 + 1) * C + c];
                if (image % n == 0) dbeta[t * C + c] = g, dgamma[t * C + c] = gx;
                on_y[c] = -k.scale[c] * k.r[c] * gx / count;
                constant[c] = -k.scale[c] * g / count - on_y[c] * k.m[c];
            }
            each_value(k, dz, image, [&](long at, int c, vec value, vec g) {
                store(dy + at, load(&k.scale[c]) * g + (load(&on_y[c]) * value + load(&constant[c])));
            });
        }
    }

    // The gradient of sum(u dy) + sum(a dgamma) + sum(b dbeta), for dy, dgamma, dbeta as `backward` makes them, in
    // dz, y and gamma. With U1 = mean u, U2 = mean(u x^), q = mean(u g) - m1 U1 - m2 U2 and
    // k = g (a - gamma r U2) - gamma r m2 u:
    //   in dz: gamma r (u - U1 - x^ U2) + a x^ + b, where the gradient passes
    //   in y: r (k - mean k - x^ mean(k x^)) - gamma r^2 q x^
    //   in gamma: n r q
    void second(const real* dz, const real* u, const real* a, const real* b, real* d_dz, real* d_y, real* d_gamma) const {
        std::vector<real> sums((size_t)T * 2 * C), others((size_t)T * 3 * C);
        gradient_sums(dz, sums.data());
        sum_images(3, others.data(), [&](long image, real* out) {
            const Channels k(*this, image / n);
            each_value(k, dz, image, [&](long at, int c, vec value, vec g) {
                const vec v = load(u + at);
                add(out + c, v);
                add(out + C + c, v * ((value - load(&k.m[c])) * load(&k.r[c])));
                add(out + 2 * C + c, v * g);
            });
        });
        const real count = (real)n * pixels();
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            const Channels k(*this, t);
            std::vector<real> on_g(C), on_u(C), on_x(C), rest(C), u1(C), u2(C);
            for (int c = 0; c < C; c++) {
                const real m1 = sums[t * 2 * C + c] / count, m2 = sums[(t * 2 + 1) * C + c] / count;
                u1[c] = others[t * 3 * C + c] / count, u2[c] = others[(t * 3 + 1) * C + c] / count;
                const real q = others[(t * 3 + 2) * C + c] / count - m1 * u1[c] - m2 * u2[c];
                const real kg = a[t * C + c] - k.scale[c] * u2[c], ku = k.scale[c] * m2, r = k.r[c];
                on_g[c] = r * kg, on_u[c] = -r * ku, rest[c] = -r * (kg * m1 - ku * u1[c]);
                on_x[c] = -r * (kg * m2 - ku * u2[c]) - k.scale[c] * r * q;
                if (image % n == 0) d_gamma[t * C + c] = count * r * q;
            }
            const auto in_dz = [&](int c, vec x, vec v) {
                return load(&k.scale[c]) * (v - load(&u1[c]) - x * load(&u2[c])) + load(a + t * C + c) * x + load(b + t * C + c);
            };
            each_value(k, dz, image, [&](long at, int c, vec value, vec g) {
                const vec v = load(u + at), x = (value - load(&k.m[c])) * load(&k.r[c]);
                store(d_y + at, load(&on_g[c]) * g + load(&on_u[c]) * v + load(&on_x[c]) * x + load(&rest[c]));
                if (!pool) store(d_dz + at, relu ? keep(alive(k, value, c), in_dz(c, x, v)) : in_dz(c, x, v));
            });
            for (long p = 0; pool && p < cells(); p++)
                for (int c = 0; c < C; c += N) {
                    const long cell = (image * cells() + p) * C + c;
                    const real* corner = u + (image * pixels() + (p / w()) * 2 * W + p % w() * 2) * C + c;
                    const mask which = __builtin_convertvector(*(const bytes*)(chosen + cell), mask);
                    vec v = {};
                    UNROLL for (int q = 0; q < 4; q++) v += keep(which == q, load(corner + ((long)(q / 2) * W + q % 2) * C));
                    const vec x = (load(best + cell) - load(&k.m[c])) * load(&k.r[c]);
                    store(d_dz + cell, keep(which != DEAD, in_dz(c, x, v)));
                }
        }
    }
};
