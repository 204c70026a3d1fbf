// uWebSockets as an echo server, one thread: `uws-echo PORT`, or within OpenSSL's TLS `uws-echo-tls PORT CERT
// KEY`. Settings follow its own examples, but for what it may hold per connection, which has to be enough for
// messages of a megabyte.

#include <cstdlib>
#include <string_view>

#include "App.h"

struct PerSocketData {};

int main(int argc, char **argv) {
    int port = argc > 1 ? std::atoi(argv[1]) : 9001;
#ifdef LIBUS_USE_OPENSSL
    if (argc < 4) return 2;
    auto app = uWS::SSLApp({.key_file_name = argv[3], .cert_file_name = argv[2]});
#else
    auto app = uWS::App();
#endif
    app.ws<PerSocketData>("/*",
                           {.compression = uWS::DISABLED,
                            .maxPayloadLength = 16 * 1024 * 1024,
                            .idleTimeout = 120,
                            .maxBackpressure = 64 * 1024 * 1024,
                            .closeOnBackpressureLimit = false,
                            .resetIdleTimeoutOnSend = false,
                            .sendPingsAutomatically = true,
                            .message = [](auto *ws, std::string_view message,
                                          uWS::OpCode opcode) { ws->send(message, opcode, false); }})
        .listen("127.0.0.1", port, [](auto *listening) {
            if (!listening) std::exit(1);
        })
        .run();
}
