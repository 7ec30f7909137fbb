/* plait-cni: what a container runtime runs as its CNI plugin (CNI specification 1.1.0).
 *
 * A runtime starts this program for every container, so it is a static binary that starts in a
 * millisecond and knows nothing of networks. It carries the call to the agent of this host, one
 * POST over a unix socket, and the answer back:
 *
 *   request    NAME=VALUE\0 for each variable, \0, then standard input as it is
 *   answer     the CNI result or error in JSON; the header Plait-CNI-Exit says which exit status
 *
 * It answers for itself in three cases: VERSION; when the agent does not answer, code 11, "try
 * again later" (50 for STATUS); and DEL in that case, which is kept in a directory that the agent
 * empties before it serves its next ADD, so that a node can remove containers while its agent is
 * down. PLAIT_ROOT stands before all paths, as everywhere in Plait: a second Plait in a test.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSIONS "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define SOCKET_PATH "/run/plait/agent.sock"
#define QUEUE_PATH "/var/lib/plait/cni/queue"
#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"

enum {
    HEAD_MAX = 512,          /* bytes of the request's HTTP head */
    CALL_MAX = 1000 * 1000,  /* of variables and configuration: less than the agent takes */
    ANSWER_MAX = 1024 * 1024,
    /* For the whole call. The agent has 100 s for an ADD or GC, 25 s for others. */
    LONG_PATIENCE_S = 120,
    SHORT_PATIENCE_S = 30,
    /* Codes of the specification, section 5. */
    CODE_ENVIRONMENT = 4,
    CODE_IO = 5,
    CODE_DECODE = 6,
    CODE_TRY_AGAIN = 11,
    CODE_NOT_AVAILABLE = 50,
};

static const char *const verbs[] = {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"};

/* What of the environment concerns a plugin. */
static const char *const variables[] = {
    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH",
};

/* Directories down to the one of kept DELs, each with its mode. */
static const struct {
    const char *path;
    mode_t mode;
} queue_path[] = {
    {"/var", 0755},           {"/var/lib", 0755},           {"/var/lib/plait", 0755},
    {"/var/lib/plait/cni", 0700}, {QUEUE_PATH, 0700},
};

/* The call, with room before it for the HTTP head, so that all of it goes in one send. */
static char request[HEAD_MAX + CALL_MAX];
static char *const call = request + HEAD_MAX;
static size_t call_length;
static size_t config_start; /* where standard input begins in it */

static char answer[ANSWER_MAX + 1];

static struct timespec deadline; /* CLOCK_MONOTONIC */

static int write_all(int fd, const char *data, size_t length) {
    while (length > 0) {
        ssize_t done = write(fd, data, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        data += done;
        length -= (size_t)done;
    }
    return 0;
}

/* An error result, to standard output; returns the exit status. The words need no escapes. */
static int refuse(int code, const char *msg, const char *details) {
    char text[1024];
    int length =
        snprintf(text, sizeof text,
                 "{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code,
                 msg, details);
    write_all(STDOUT_FILENO, text, (size_t)length);
    return code;
}

/* -- the call ------------------------------------------------------------------------------ */

static int append(const char *data, size_t length) {
    if (length > CALL_MAX - call_length)
        return -1;
    memcpy(call + call_length, data, length);
    call_length += length;
    return 0;
}

static int append_variable(const char *name, const char *value) {
    return append(name, strlen(name)) || append("=", 1) || append(value, strlen(value) + 1);
}

/* Read the configuration to its end, also when it is too long: the runtime's write never fails. */
static int append_input(void) {
    int fits = 1;
    for (;;) {
        char chunk[16384];
        ssize_t got = read(STDIN_FILENO, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return CODE_IO;
        if (got == 0)
            return fits ? 0 : CODE_DECODE;
        fits = fits && append(chunk, (size_t)got) == 0;
    }
}

/* Returns 0 or the code of an error. The order in which calls began tells the agent which of two
 * that overlap is out of date. */
static int gather(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    char started[32];
    snprintf(started, sizeof started, "%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
    int failed = append_variable("PLAIT_STARTED", started);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i]);
        if (value != NULL)
            failed = failed || append_variable(variables[i], value);
    }
    failed = failed || append("", 1);
    config_start = call_length;
    int code = append_input();
    return failed ? CODE_DECODE : code;
}

/* -- the agent ----------------------------------------------------------------------------- */

/* Let the next system call on the socket wait until the deadline; -1 when it has passed. */
static int wait_at_most(int fd, int option) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long left = (deadline.tv_sec - now.tv_sec) * 1000000LL +
                     (deadline.tv_nsec - now.tv_nsec) / 1000;
    if (left <= 0) {
        errno = ETIMEDOUT;
        return -1;
    }
    struct timeval patience = {.tv_sec = left / 1000000, .tv_usec = left % 1000000};
    return setsockopt(fd, SOL_SOCKET, option, &patience, sizeof patience);
}

static int reach(const char *root) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s%s", root, SOCKET_PATH);
    if (length < 0 || (size_t)length >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    while (wait_at_most(fd, SO_SNDTIMEO) == 0) {
        if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        if (errno != EINTR)
            break;
    }
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int send_call(int fd) {
    char head[HEAD_MAX];
    int length = snprintf(head, sizeof head,
                          "POST /v1/cni HTTP/1.1\r\n"
                          "Host: plait\r\n"
                          "Content-Type: application/octet-stream\r\n"
                          "Content-Length: %zu\r\n"
                          "Connection: close\r\n\r\n",
                          call_length);
    char *data = call - length;
    memcpy(data, head, (size_t)length);
    size_t left = call_length + (size_t)length;
    while (left > 0) {
        if (wait_at_most(fd, SO_SNDTIMEO) < 0)
            return -1;
        ssize_t done = send(fd, data, left, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        data += done;
        left -= (size_t)done;
    }
    return 0;
}

/* The number in a header of the head that ends at `end`; -1 without one. */
static long header(const char *name, const char *end) {
    const char *found = strcasestr(answer, name);
    if (found == NULL || found >= end)
        return -1;
    const char *digits = found + strlen(name);
    digits += strspn(digits, " \t");
    if (*digits < '0' || *digits > '9')
        return -1;
    char *stop;
    errno = 0;
    long value = strtol(digits, &stop, 10);
    return errno == 0 && *stop == '\r' && value >= 0 ? value : -1;
}

/* What came of asking the agent. */
struct outcome {
    int answered;
    int status;       /* to exit with */
    const char *body;
    size_t length;
    const char *why;  /* when it did not answer */
};

static struct outcome silent(const char *why) {
    return (struct outcome){.why = why};
}

static struct outcome why_not(void) {
    /* EAGAIN is how the timeout of a socket shows. */
    return silent(errno == EAGAIN || errno == ETIMEDOUT || errno == EINPROGRESS
                      ? "it did not answer in time"
                      : strerror(errno));
}

static struct outcome receive(int fd) {
    size_t length = 0, wanted = 0;
    const char *body = NULL;
    long status = 0;
    while (body == NULL || length < wanted) {
        if (length == ANSWER_MAX)
            return silent("its answer is too long");
        if (wait_at_most(fd, SO_RCVTIMEO) < 0)
            return why_not();
        ssize_t got = recv(fd, answer + length, ANSWER_MAX - length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return why_not();
        if (got == 0)
            return silent("it ended in the middle of its answer");
        length += (size_t)got;
        answer[length] = '\0';
        const char *end = body == NULL ? strstr(answer, "\r\n\r\n") : NULL;
        if (end != NULL) {
            status = header("\r\nPlait-CNI-Exit:", end);
            long size = header("\r\nContent-Length:", end);
            if (status < 0 || status > 255 || size < 0)
                return silent("what answers there does not serve CNI");
            if (size > ANSWER_MAX - (end + 4 - answer))
                return silent("its answer is too long");
            body = end + 4;
            wanted = (size_t)(body - answer) + (size_t)size;
        }
    }
    return (struct outcome){
        .answered = 1, .status = (int)status, .body = body, .length = wanted - (size_t)(body - answer)};
}

static struct outcome ask(const char *root, int patience) {
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += patience;
    int fd = reach(root);
    if (fd < 0)
        return why_not();
    struct outcome outcome = send_call(fd) < 0 ? why_not() : receive(fd);
    close(fd);
    return outcome;
}

/* -- DEL while the agent is down ----------------------------------------------------------- */

/* FNV-1a, 64 bit: one name for a DEL, however often it comes. The configuration counts, for
 * another one may have an attachment of the same container and interface. */
static uint64_t hash(uint64_t state, const char *data, size_t length) {
    while (length-- > 0)
        state = (state ^ (unsigned char)*data++) * 0x100000001b3u;
    return state;
}

/* A directory that is synced knows its entries after the loss of power. */
static int open_queue(const char *root) {
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof queue_path / sizeof *queue_path; i++) {
        if ((size_t)snprintf(path, sizeof path, "%s%s", root, queue_path[i].path) >= sizeof path)
            return -1;
        if (mkdir(path, queue_path[i].mode) < 0 && errno != EEXIST)
            return -1;
    }
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* After a reboot nothing of this boot is left to delete, so the agent must know which it was. */
static int write_boot(int fd) {
    char line[64] = "PLAIT_BOOT=";
    size_t length = strlen(line);
    int file = open(BOOT_ID_FILE, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, line + length, sizeof line - length - 1);
    if (file >= 0)
        close(file);
    if (got <= 0)
        return -1;
    length += (size_t)got - (line[length + (size_t)got - 1] == '\n');
    line[length] = '\0';
    return write_all(fd, line, length + 1);
}

static int keep(const char *root, const char *container, const char *ifname) {
    int directory = open_queue(root);
    if (directory < 0)
        return -1;
    char name[17], fresh[64];
    uint64_t state = hash(0xcbf29ce484222325u, container, strlen(container) + 1);
    state = hash(state, ifname, strlen(ifname) + 1);
    state = hash(state, call + config_start, call_length - config_start);
    snprintf(name, sizeof name, "%016llx", (unsigned long long)state);
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    snprintf(fresh, sizeof fresh, ".%s.%ld.%ld", name, (long)getpid(), now.tv_nsec);
    int fd = openat(directory, fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int failed = fd < 0 || write_boot(fd) < 0 || write_all(fd, call, call_length) < 0 ||
                 fsync(fd) < 0;
    if (fd >= 0)
        failed = close(fd) < 0 || failed;
    failed = failed || renameat(directory, fresh, directory, name) < 0;
    if (failed && fd >= 0)
        unlinkat(directory, fresh, 0);
    failed = failed || fsync(directory) < 0;
    close(directory);
    return failed ? -1 : 0;
}

/* Returns the exit status. */
static int keep_del(const char *root, const char *why) {
    const char *container = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME");
    if (container == NULL || *container == '\0' || ifname == NULL || *ifname == '\0')
        return refuse(CODE_ENVIRONMENT, "CNI_CONTAINERID and CNI_IFNAME must be set", "");
    if (keep(root, container, ifname) == 0)
        return 0;
    char details[512];
    snprintf(details, sizeof details, "%s; " QUEUE_PATH ": %s", why, strerror(errno));
    return refuse(CODE_TRY_AGAIN,
                  "the agent of this host does not answer, and the DEL cannot be kept for it",
                  details);
}

/* ------------------------------------------------------------------------------------------ */

static int is_of(char c, const char *set) {
    return c != '\0' && strchr(set, c) != NULL;
}

/* The answer to VERSION names the version in which it was asked (section 4); ours without one. */
static int tell_versions(void) {
    static const char key[] = "\"cniVersion\"";
    char asked[16] = "";
    const char *end = call + call_length;
    const char *found = memmem(call + config_start, call_length - config_start, key, sizeof key - 1);
    if (found != NULL) {
        found += sizeof key - 1;
        while (found < end && is_of(*found, " \t\r\n:\""))
            found++;
        for (size_t i = 0; i < sizeof asked - 1 && found < end && is_of(*found, "0123456789."); i++)
            asked[i] = *found++;
    }
    char text[256];
    int length = snprintf(text, sizeof text,
                          "{\"cniVersion\":\"%s\",\"supportedVersions\":[" VERSIONS "]}\n",
                          *asked ? asked : "1.1.0");
    return write_all(STDOUT_FILENO, text, (size_t)length) < 0 ? CODE_IO : 0;
}

static int known(const char *verb) {
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i]) == 0)
            return 1;
    }
    return 0;
}

int main(void) {
    const char *verb = getenv("CNI_COMMAND");
    if (verb == NULL) {
        fputs("plait-cni is a CNI plugin: a container runtime runs it, with CNI_COMMAND set\n",
              stderr);
        return refuse(CODE_ENVIRONMENT, "CNI_COMMAND is not set", "");
    }
    /* A runtime that has gone is an error of write, not our end in the middle of a step. */
    signal(SIGPIPE, SIG_IGN);
    int code = gather();
    if (!known(verb))
        return refuse(CODE_ENVIRONMENT, "CNI_COMMAND is not a verb of CNI", "");
    if (strcmp(verb, "VERSION") == 0)
        return tell_versions();
    if (code == CODE_IO)
        return refuse(code, "the network configuration cannot be read", strerror(errno));
    if (code != 0)
        return refuse(code, "the call is longer than a million bytes", "");

    const char *root = getenv("PLAIT_ROOT");
    root = root == NULL || strcmp(root, "/") == 0 ? "" : root;
    int slow = strcmp(verb, "ADD") == 0 || strcmp(verb, "GC") == 0;
    struct outcome outcome = ask(root, slow ? LONG_PATIENCE_S : SHORT_PATIENCE_S);
    if (outcome.answered)
        return write_all(STDOUT_FILENO, outcome.body, outcome.length) < 0 ? CODE_IO
                                                                          : outcome.status;
    if (strcmp(verb, "DEL") == 0)
        return keep_del(root, outcome.why);
    char details[512];
    snprintf(details, sizeof details, SOCKET_PATH ": %s; fix: plait status", outcome.why);
    return refuse(strcmp(verb, "STATUS") == 0 ? CODE_NOT_AVAILABLE : CODE_TRY_AGAIN,
                  "the agent of this host does not answer", details);
}
