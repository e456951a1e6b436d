/* A Squeeze-and-Excitation block in C, judged by frozen vectors. It computes avg, relu and sigmoid:
 *
 *   se-check vectors . --format c --spec '{"channels": 6, "hidden": 4, "bias": true}'
 *   cc -std=c99 -I. se_block.c -lm -o se_block
 *   ./se_block | se-check vectors --judge - --spec '{"channels": 6, "hidden": 4, "bias": true}' --only '*float32'
 */
#include <math.h>
#include <stdio.h>
#include "vectors.h"

static float project(const float *weight, const float *bias, const float *in, int inputs, int output) {
    float sum = bias ? bias[output] : 0;
    for (int i = 0; i < inputs; i++)
        sum += weight[output * inputs + i] * in[i];
    return sum;
}

static void block(const se_vector *v, const float *x, float *y) { /* one sample, (positions, channels) */
    float z[64] = {0}, h[64];
    for (int p = 0; p < v->positions; p++)
        for (int c = 0; c < v->channels; c++)
            z[c] += x[p * v->channels + c] / v->positions;
    for (int r = 0; r < v->hidden; r++) {
        float u = project(v->reduce_weight, v->reduce_bias, z, v->channels, r);
        h[r] = u < 0 ? 0 : u; /* not u > 0 ? u : 0, which drops NaN */
    }
    for (int c = 0; c < v->channels; c++) {
        float g = 1 / (1 + expf(-project(v->expand_weight, v->expand_bias, h, v->hidden, c)));
        for (int p = 0; p < v->positions; p++)
            y[p * v->channels + c] = x[p * v->channels + c] * g;
    }
}

int main(void) {
    for (const se_vector *v = SE_VECTORS; v < SE_VECTORS + SE_VECTOR_COUNT; v++) {
        int size = v->positions * v->channels;
        printf("%s:", v->name);
        for (int n = 0; n < v->samples; n++) {
            float y[1024];
            block(v, v->x + n * size, y);
            for (int i = 0; i < size; i++)
                printf(" %.9g", y[i]);
        }
        printf("\n");
    }
    return 0;
}
