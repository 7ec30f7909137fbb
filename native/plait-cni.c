/* plait-cni: what a container runtime runs as its CNI plugin (CNI spec 1.1.0).
 *
 * A runtime starts this program for every container, so it is a static binary that starts in a
 * millisecond. It answers VERSION itself. For the other verbs it will hand CNI_* and standard
 * input to the agent on /run/plait/agent.sock as one line of JSON; the agent of this version
 * does not serve CNI, so each of them is refused with code 11, "try again later".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSIONS "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""

static const char *const verbs[] = {"ADD", "DEL", "CHECK", "STATUS", "GC"};

/* An error result, spec section 5: standard output, and exit with the code. */
static int refuse(int code, const char *msg, const char *details) {
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code, msg,
           details);
    return code;
}

/* Read and drop the network configuration, so that the runtime's write never fails. */
static void drain(void) {
    char buffer[4096];
    while (fread(buffer, 1, sizeof buffer, stdin) > 0) {
    }
}

int main(void) {
    const char *verb = getenv("CNI_COMMAND");
    if (verb == NULL) {
        fputs("plait-cni is a CNI plugin: a container runtime runs it, with CNI_COMMAND set\n",
              stderr);
        return refuse(4, "CNI_COMMAND is not set", "");
    }
    drain();
    if (strcmp(verb, "VERSION") == 0) {
        printf("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[%s]}\n", VERSIONS);
        return 0;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i]) == 0) {
            return refuse(11, "agent does not serve CNI yet",
                          "this version of Plait serves Docker and `plait attach`");
        }
    }
    return refuse(4, "CNI_COMMAND is not a verb of CNI", "");
}
