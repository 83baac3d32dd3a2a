/* The environment's settings: OE_MQTT_CONFIG, OE_MQTT_STATE, OE_MQTT_POLICY, OE_MQTT_LOG, and the defaults where they are absent.
 * In a set-user-id program (AT_SECURE) the environment is ignored. */
#ifndef OE_OS_ENV_H
#define OE_OS_ENV_H

#include <limits.h>
#include <stddef.h>

#include "../core/conf.h"
#include "log.h"

struct oe_env {
    char state_dir[PATH_MAX]; /* absolute; "" if none can be told (no home): nothing is stored then */
    struct oe_conf conf;
    struct oe_log log;
};

/* Reads the environment, the log setting and the configuration. The configuration is OE_MQTT_CONFIG (an absolute path), else
 * SYSCONFDIR/oe-mqtt.conf if it exists, else the built-in defaults. The state directory is OE_MQTT_STATE (an absolute path), else for root
 * /var/lib/oe-mqtt, else $XDG_STATE_HOME/oe-mqtt, else $HOME/.local/state/oe-mqtt. An empty variable counts as none. A file that was named
 * but is missing is an error. On an error of any kind *why says so in one line,
 * conf.policy is OE_POLICY_REFUSE with override set, and the status is not OE_OK; log and state_dir are usable in every case. */
enum oe_status oe_env_read(struct oe_env *env, char *why, size_t why_n);
void oe_env_free(struct oe_env *env);

#endif
