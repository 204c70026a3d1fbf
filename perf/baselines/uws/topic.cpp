// uWebSockets' own topics, one thread: `uws-topic PORT`. Everyone is subscribed to one topic, and what
// anyone sends is published there. Settings as in echo.cpp.

#include <cstdlib>
#include <string_view>

#include "App.h"

struct PerSocketData {};

int main(int argc, char **argv) {
    int port = argc > 1 ? std::atoi(argv[1]) : 9001;
    uWS::App()
        .ws<PerSocketData>("/*",
                           {.compression = uWS::DISABLED,
                            .maxPayloadLength = 16 * 1024 * 1024,
                            .idleTimeout = 120,
                            .maxBackpressure = 64 * 1024 * 1024,
                            .closeOnBackpressureLimit = false,
                            .resetIdleTimeoutOnSend = false,
                            .sendPingsAutomatically = true,
                            .open = [](auto *ws) { ws->subscribe("feed"); },
                            .message = [](auto *ws, std::string_view message,
                                          uWS::OpCode opcode) { ws->publish("feed", message, opcode, false); }})
        .listen("127.0.0.1", port, [](auto *listening) {
            if (!listening) std::exit(1);
        })
        .run();
}
