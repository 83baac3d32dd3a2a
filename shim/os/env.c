#include "env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "conffile.h"
#include "file.h"

#define CONF_FILE OE_SYSCONFDIR "/oe-mqtt.conf"
#define ROOT_STATE_DIR "/var/lib/oe-mqtt"

/* NULL where the variable is absent, empty, or not to be trusted. */
static const char *variable(const char *name)
{
    const char *value = getauxval(AT_SECURE) != 0 ? NULL : getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static enum oe_status wrong(const char *name, const char *value, const char *allowed, char *why, size_t why_n)
{
    (void)snprintf(why, why_n, "%s: \"%.200s\" is wrong; allowed: %s", name, value, allowed);
    if (why_n > 0)
        oe_file_one_line(why);
    return OE_INVALID;
}

/* DIRECTORY and the rest after it; OE_LIMIT: too long, or not absolute. */
static enum oe_status take_dir(char out[PATH_MAX], const char *directory, const char *rest)
{
    int n = directory[0] == '/' ? snprintf(out, PATH_MAX, "%s%s", directory, rest) : PATH_MAX;
    if (n >= 0 && n < PATH_MAX)
        return OE_OK;
    out[0] = '\0';
    return OE_LIMIT;
}

static enum oe_status read_state_dir(char out[PATH_MAX], char *why, size_t why_n)
{
    const char *state = variable("OE_MQTT_STATE");
    const char *xdg = variable("XDG_STATE_HOME");
    const char *home = variable("HOME");

    out[0] = '\0';
    if (state != NULL)
        return take_dir(out, state, "") == OE_OK ? OE_OK : wrong("OE_MQTT_STATE", state, "an absolute path", why, why_n);
    if (geteuid() == 0)
        return take_dir(out, ROOT_STATE_DIR, "");
    /* A relative XDG_STATE_HOME counts as none (XDG Base Directory Specification). */
    if (xdg != NULL && take_dir(out, xdg, "/oe-mqtt") == OE_OK)
        return OE_OK;
    if (home != NULL)
        (void)take_dir(out, home, "/.local/state/oe-mqtt");
    return OE_OK;
}

static enum oe_status read_conf(struct oe_conf *conf, char *why, size_t why_n)
{
    const char *path = variable("OE_MQTT_CONFIG");
    enum oe_status status;

    if (path != NULL)
        return path[0] == '/' ? oe_conffile_read(path, conf, why, why_n) : wrong("OE_MQTT_CONFIG", path, "an absolute path", why, why_n);
    status = oe_conffile_read(CONF_FILE, conf, why, why_n);
    if (status == OE_SYSTEM && (errno == ENOENT || errno == ENOTDIR)) {
        oe_conf_free(conf);
        oe_conf_init(conf);
        if (why_n > 0)
            why[0] = '\0';
        return OE_OK;
    }
    return status;
}

static enum oe_status read_policy(struct oe_conf *conf, char *why, size_t why_n)
{
    const char *policy = variable("OE_MQTT_POLICY");

    if (policy == NULL)
        return OE_OK;
    if (oe_policy_parse(policy, &conf->override_policy) != OE_OK)
        return wrong("policy of option -p or OE_MQTT_POLICY", policy, "off, prefer, require", why, why_n);
    conf->override = 1;
    return OE_OK;
}

enum oe_status oe_env_read(struct oe_env *env, char *why, size_t why_n)
{
    const char *log = variable("OE_MQTT_LOG");
    enum oe_status status;

    if (why_n > 0)
        why[0] = '\0';
    oe_conf_init(&env->conf);
    oe_log_init(&env->log);
    status = read_state_dir(env->state_dir, why, why_n);
    if (log != NULL && status == OE_OK)
        status = oe_log_parse(&env->log, log, why, why_n);
    else if (log != NULL)
        (void)oe_log_parse(&env->log, log, NULL, 0); /* the first error is the one that is told */
    if (status == OE_OK)
        status = read_conf(&env->conf, why, why_n);
    if (status == OE_OK)
        status = read_policy(&env->conf, why, why_n);
    if (status != OE_OK) {
        oe_conf_free(&env->conf);
        oe_conf_init(&env->conf);
        env->conf.policy = OE_POLICY_REFUSE;
        env->conf.override = 1;
        env->conf.override_policy = OE_POLICY_REFUSE;
    }
    return status;
}

void oe_env_free(struct oe_env *env)
{
    oe_conf_free(&env->conf);
}
