// placeholder until the polynomials land
#ifndef DM_MATH_H
#define DM_MATH_H
#include <stdint.h>
double exp(double), log(double), tanh(double), sin(double), cos(double), erf(double);
float expf(float), logf(float), tanhf(float), sinf(float), cosf(float), erff(float);
#define dm_expf expf
#define dm_logf logf
#define dm_tanhf tanhf
#define dm_sinf sinf
#define dm_cosf cosf
#define dm_erff erff
static inline float dm_sigmoidf(float x){return 1.0f/(1.0f+expf(-x));}
static inline uint32_t dm_threefry_first(uint32_t a,uint32_t b,uint32_t c,uint32_t d){return a^b^c^d;}
#endif
