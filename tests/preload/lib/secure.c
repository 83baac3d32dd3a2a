/* What oe_env_read makes of the environment, run with and without AT_SECURE. */
#include <stdio.h>
#include <sys/auxv.h>

#include "shim/os/env.h"

int main(void)
{
    static struct oe_env env;
    char why[200];
    oe_env_read(&env, why, sizeof(why));
    printf("override=%d state=%s secure=%lu\n", env.conf.override, env.state_dir, getauxval(AT_SECURE));
    return 0;
}
