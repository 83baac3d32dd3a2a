#include "real.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

static const struct {
    const char *symbol;
    size_t at;
} table[] = {
#define OE_REAL_ROW(member, symbol, result, parameters) {symbol, offsetof(struct oe_real, member)},
    OE_REAL_CALLS(OE_REAL_ROW) OE_REAL_TIME64_CALLS(OE_REAL_ROW)
#undef OE_REAL_ROW
};

void oe_real_init(void)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        void *p = dlsym(RTLD_NEXT, table[i].symbol);
        if (p != NULL)
            memcpy((char *)&oe_real + table[i].at, &p, sizeof(p));
    }
}
