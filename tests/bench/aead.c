/* What the cipher alone costs on this machine: aead SIZE seals and opens a message of SIZE bytes in pieces of a record's size, over and over, in
 * memory that stays in the cache. Prints {"us": CPU time of one seal and one open}. The floor of the link scope: nothing of OE-MQTT is in it. */
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RECORD_PLAIN_BYTES 16364U
#define RUN_NS INT64_C(40000000)

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

int main(int argc, char **argv)
{
    static uint8_t plain[RECORD_PLAIN_BYTES], sealed[RECORD_PLAIN_BYTES + 16], key[32], nonce[12];
    size_t size = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
    unsigned long long n;
    int64_t start, rounds = 0;

    if (size == 0 || sodium_init() < 0) {
        fputs("aead: usage: aead SIZE\n", stderr);
        return 2;
    }
    start = cpu_ns();
    do {
        for (size_t left = size, k; left != 0; left -= k) {
            k = left < sizeof(plain) ? left : sizeof(plain);
            crypto_aead_chacha20poly1305_ietf_encrypt(sealed, &n, plain, k, NULL, 0, NULL, nonce, key);
            if (crypto_aead_chacha20poly1305_ietf_decrypt(plain, &n, NULL, sealed, n, NULL, 0, nonce, key) != 0)
                return 1;
        }
        rounds++;
    } while (cpu_ns() - start < RUN_NS);
    printf("{\"us\": %.3f}\n", (double)(cpu_ns() - start) / 1000 / (double)rounds);
    return 0;
}
