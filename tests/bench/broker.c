/* The physical limit: a ROUTER-ROUTER broker on libzmq that does nothing but route.
 *
 * A client sends [engine, message...], the engine gets [client, message...], and back. One thread, no high-water mark,
 * messages are moved and never copied, both sides are drained in batches so that neither starves the other. It checks
 * no signature and records nothing.
 *
 * usage: broker DIRECTORY   writes the connection files there, prints nothing, runs until it is killed.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    /* Messages taken from one side before the other has its turn. */
    BATCH = 256,
    ENDPOINT_LEN = 64,
    PATH_LEN = 4096,
};

static void fail(const char *what)
{
    fprintf(stderr, "broker: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

static void *bound_router(void *context, const char *routing_id, char endpoint[ENDPOINT_LEN])
{
    void *socket = zmq_socket(context, ZMQ_ROUTER);
    int unlimited = 0;
    size_t len = ENDPOINT_LEN;
    if (!socket)
        fail("no socket");
    if (zmq_setsockopt(socket, ZMQ_SNDHWM, &unlimited, sizeof unlimited) ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &unlimited, sizeof unlimited) ||
        zmq_setsockopt(socket, ZMQ_ROUTING_ID, routing_id, strlen(routing_id)))
        fail("cannot set an option");
    if (zmq_bind(socket, "tcp://127.0.0.1:*") || zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &len))
        fail("cannot bind");
    return socket;
}

static void write_file(const char *directory, const char *name, const char *endpoint)
{
    char path[PATH_LEN], temporary[PATH_LEN];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(temporary, sizeof temporary, "%s/.%s", directory, name);
    file = fopen(temporary, "w");
    if (!file)
        fail(temporary);
    fprintf(file, "{\"interface\": \"tcp://127.0.0.1\", \"key\": \"raw broker\", \"mux\": %s}\n",
            strrchr(endpoint, ':') + 1);
    if (fclose(file) || rename(temporary, path))
        fail(path);
}

/* Sends the rest of a message, whose first frames are already out, as it comes in. */
static void move_rest(void *from, void *to, zmq_msg_t *frame)
{
    bool more = true;
    while (more) {
        if (zmq_msg_recv(frame, from, 0) < 0)
            fail("receive");
        more = zmq_msg_more(frame);
        if (zmq_msg_send(frame, to, more ? ZMQ_SNDMORE : 0) < 0)
            fail("send");
    }
}

/* Moves up to BATCH messages. False when there was less. */
static bool drain(void *from, void *to)
{
    for (int count = 0; count < BATCH; count++) {
        zmq_msg_t sender, target, frame;
        zmq_msg_init(&sender);
        zmq_msg_init(&target);
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&sender, from, ZMQ_DONTWAIT) < 0) {
            if (errno != EAGAIN && errno != EINTR)
                fail("receive");
            return false;
        }
        if (!zmq_msg_more(&sender) || zmq_msg_recv(&target, from, 0) < 0)
            fail("a message without a target");
        /* An unknown target makes the ROUTER drop the message, frame by frame. */
        if (zmq_msg_send(&target, to, ZMQ_SNDMORE) < 0 || zmq_msg_send(&sender, to, ZMQ_SNDMORE) < 0)
            fail("send");
        move_rest(from, to, &frame);
        zmq_msg_close(&sender);
        zmq_msg_close(&target);
        zmq_msg_close(&frame);
    }
    return true;
}

int main(int argc, char **argv)
{
    char client_endpoint[ENDPOINT_LEN], engine_endpoint[ENDPOINT_LEN];
    if (argc != 2) {
        fprintf(stderr, "usage: broker DIRECTORY\n");
        return 2;
    }
    void *context = zmq_ctx_new();
    void *clients = bound_router(context, "mux_in", client_endpoint);
    void *engines = bound_router(context, "mux_out", engine_endpoint);
    write_file(argv[1], "ipcontroller-engine.json", engine_endpoint);
    write_file(argv[1], "ipcontroller-client.json", client_endpoint);
    for (;;) {
        bool full = drain(clients, engines);
        full |= drain(engines, clients);
        if (!full) {
            zmq_pollitem_t items[] = {{clients, 0, ZMQ_POLLIN, 0}, {engines, 0, ZMQ_POLLIN, 0}};
            if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
                fail("poll");
        }
    }
}
