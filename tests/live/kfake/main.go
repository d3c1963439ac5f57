// A Kafka broker in one process, for tests of what librdkafka's mock cluster has not: transactions,
// TLS, passwords, topics that have to be made, data that survives its death. Reads from standard
// input until that is closed.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	port := flag.Int("port", 9092, "on 127.0.0.1")
	data := flag.String("data", "", "folder")
	user := flag.String("user", "", "METHOD:NAME:PASSWORD")
	cert := flag.String("cert", "", "CERTIFICATE:KEY")
	auto := flag.Bool("auto", true, "make topics that are missing")
	largest := flag.String("largest", "", "message.max.bytes")
	flag.Parse()

	options := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(*port), kfake.DefaultNumPartitions(1)}
	if *data != "" {
		options = append(options, kfake.DataDir(*data))
	}
	if *auto {
		options = append(options, kfake.AllowAutoTopicCreation())
	}
	if *largest != "" {
		options = append(options, kfake.BrokerConfigs(map[string]string{"message.max.bytes": *largest}))
	}
	if p := strings.SplitN(*user, ":", 3); len(p) == 3 {
		options = append(options, kfake.EnableSASL(), kfake.Superuser(p[0], p[1], p[2]))
	}
	if p := strings.SplitN(*cert, ":", 2); len(p) == 2 {
		pair, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		options = append(options, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// librdkafka looks for version 0 of the handshake, which all brokers have, before it uses 1.
	cluster.ControlKey(18, func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if *user == "" {
			return nil, nil, false
		}
		response := request.ResponseKind().(*kmsg.ApiVersionsResponse)
		for _, k := range [][3]int16{{0, 3, 9}, {1, 4, 11}, {2, 0, 5}, {3, 0, 9}, {10, 0, 3}, {17, 0, 1},
			{18, 0, 3}, {19, 0, 5}, {22, 0, 4}, {24, 0, 3}, {26, 0, 3}, {36, 0, 2}} {
			key := kmsg.NewApiVersionsResponseApiKey()
			key.ApiKey, key.MinVersion, key.MaxVersion = k[0], k[1], k[2]
			response.ApiKeys = append(response.ApiKeys, key)
		}
		return response, nil, true
	})
	// A wrong password is answered, as brokers do, and not only met with silence.
	cluster.ControlKey(36, func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		p := strings.SplitN(*user, ":", 3)
		r := request.(*kmsg.SASLAuthenticateRequest)
		if p[0] != "PLAIN" || string(r.SASLAuthBytes) == "\x00"+p[1]+"\x00"+p[2] {
			return nil, nil, false
		}
		response := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		response.ErrorCode = 58
		response.ErrorMessage = kmsg.StringPtr("Authentication failed: Invalid username or password")
		return response, nil, true
	})
	fmt.Println(strings.Join(cluster.ListenAddrs(), ","))
	io.Copy(io.Discard, os.Stdin)
	cluster.Close()
}
