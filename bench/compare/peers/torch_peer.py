# The PyTorch peer of the comparison. It reads requests from stdin, one JSON object per line, and writes answers to
# stdout (see protocol.ts). Each model is written in the usual way for PyTorch. Where there are several usual ways, it
# is the fastest one that we found. DYNAMOE_TORCH_DEVICE=cuda: on the GPU, where the time of a step is that of all
# steps of a turn, the last one complete, divided by their number.
import json, math, os, sys, time

DEVICE = os.environ.get('DYNAMOE_TORCH_DEVICE', 'cpu')

def status(name):
    with open('/proc/self/status') as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(name + ':'))

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    torch = None
    missing = str(error)

# -- one layer: [tokens, d] -> [tokens, d] --

def gate(x, router, k):
    weights, chosen = torch.topk(torch.softmax(router(x), -1), k)
    return weights / weights.sum(-1, keepdim=True), chosen

class Expert(nn.Module):
    def __init__(self, d, ff):
        super().__init__()
        self.up, self.down = nn.Linear(d, ff, bias=False), nn.Linear(ff, d, bias=False)
    def forward(self, x): return self.down(torch.relu(self.up(x)))

class Loop(nn.Module):
    """Dropless, one expert at a time, like Hugging Face's Mixtral."""
    def __init__(self, d, experts, k, make):
        super().__init__()
        self.k, self.router = k, nn.Linear(d, experts, bias=False)
        self.experts = nn.ModuleList(make() for _ in range(experts))
    def forward(self, x):
        weights, chosen = gate(x, self.router, self.k)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel() == 0: continue
            y.index_add_(0, token, expert(x[token]) * weights[token, slot, None])
        return y

class SortedLoop(Loop):
    """The same loop over tokens that are sorted by expert once."""
    def forward(self, x):
        weights, chosen = gate(x, self.router, self.k)
        order = torch.argsort(chosen.flatten(), stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        token = torch.div(order, self.k, rounding_mode='floor')
        rows = x.index_select(0, token).split(counts)
        out = torch.cat([expert(r) for expert, r in zip(self.experts, rows) if r.shape[0] > 0])
        return torch.zeros_like(x).index_add(0, token, out * weights.flatten().index_select(0, order)[:, None])

class Bank(nn.Module):
    def __init__(self, d, ff, experts, k, factor):
        super().__init__()
        self.k, self.experts, self.factor = k, experts, factor
        self.router = nn.Linear(d, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, d, ff) / math.sqrt(d))
        self.w2 = nn.Parameter(torch.randn(experts, ff, d) / math.sqrt(ff))
    def ffn(self, rows): return torch.bmm(torch.relu(torch.bmm(rows, self.w1)), self.w2)
    def places(self, x):
        """Weights, experts and places of the choices [tokens, k], and the capacity. A place >= capacity is dropped."""
        weights, chosen = gate(x, self.router, self.k)
        capacity = math.ceil(self.factor * self.k * x.shape[0] / self.experts)
        hot = F.one_hot(chosen.t().flatten(), self.experts) # [k * tokens, experts]: first choices first
        place = ((hot.cumsum(0) - 1) * hot).sum(-1).view(self.k, -1).t()
        return weights, chosen, place, capacity

class Scatter(Bank):
    """Rows in fixed buffers [experts, capacity, d], batched products (DeepSpeed, Tutel)."""
    def forward(self, x):
        weights, chosen, place, capacity = self.places(x)
        size, d = self.experts * capacity, x.shape[1]
        # Choices beyond the capacity are written to an extra row, which no expert reads.
        slot = torch.where(place < capacity, chosen * capacity + place, size)
        buffer = x.new_zeros(size + 1, d).index_copy(0, slot.flatten(), x.repeat_interleave(self.k, 0))
        out = self.ffn(buffer[:size].view(self.experts, capacity, d)).view(size, d)
        out = torch.cat([out, out.new_zeros(1, d)])
        return (out.index_select(0, slot.flatten()).view(*slot.shape, d) * weights[..., None]).sum(1)

class Einsum(Bank):
    """One-hot masks [tokens, experts, capacity] (GShard)."""
    def forward(self, x):
        weights, chosen, place, capacity = self.places(x)
        expert = F.one_hot(chosen, self.experts).to(x.dtype)
        room = F.one_hot(torch.where(place < capacity, place, capacity), capacity + 1)[..., :capacity].to(x.dtype)
        combine = torch.einsum('tk,tke,tkc->tec', weights, expert, room)
        dispatch = torch.einsum('tke,tkc->tec', expert, room)
        rows = torch.einsum('tec,td->ecd', dispatch, x)
        return torch.einsum('tec,ecd->td', combine, self.ffn(rows))

class Grouped(Bank):
    """Dropless: tokens sorted by expert, one grouped product for all experts (Hugging Face, torchtitan)."""
    def __init__(self, d, ff, experts, k):
        super().__init__(d, ff, experts, k, 1)
        self.product = getattr(F, 'grouped_mm', None) or getattr(torch, '_grouped_mm', None)
        if self.product is None: raise RuntimeError('this PyTorch has no grouped_mm')
    def forward(self, x):
        weights, chosen = gate(x, self.router, self.k)
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        ends = torch.bincount(flat, minlength=self.experts).cumsum(0).to(torch.int32)
        token = torch.div(order, self.k, rounding_mode='floor')
        rows = torch.relu(self.product(x.index_select(0, token), self.w1, offs=ends))
        out = self.product(rows, self.w2, offs=ends)
        return torch.zeros_like(x).index_add(0, token, out * weights.flatten().index_select(0, order)[:, None])

def layer(style, w):
    d, ff, experts, k = w['dModel'], w['dFf'], w['experts'], w['topK']
    name, _, factor = style.partition(' ')
    if name == 'loop': return Loop(d, experts, k, lambda: Expert(d, ff))
    if name == 'sorted': return SortedLoop(d, experts, k, lambda: Expert(d, ff))
    if name == 'dense': return Expert(d, k * ff)
    if name == 'grouped': return Grouped(d, ff, experts, k)
    return {'scatter': Scatter, 'einsum': Einsum}[name](d, ff, experts, k, float(factor))

# -- the small classifier: 784 -> 10 --

def mlp(a, b, c): return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c))

class Classifier(nn.Module):
    def __init__(self, style, experts=8, k=2):
        super().__init__()
        self.style, self.k, self.router = style, k, mlp(784, 64, experts)
        self.experts = nn.ModuleList(mlp(784, 64, 10) for _ in range(experts))
    def forward(self, x):
        weights, chosen = gate(x, self.router, self.k)
        if self.style == 'dense':
            full = torch.zeros(x.shape[0], len(self.experts)).scatter(1, chosen, weights)
            return torch.einsum('te,etc->tc', full, torch.stack([e(x) for e in self.experts]))
        y = x.new_zeros(x.shape[0], 10)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel() > 0: y = y.index_add(0, token, expert(x[token]) * weights[token, slot, None])
        return y

class ScatterClassifier(Bank):
    def __init__(self, factor, experts=8, k=2):
        super().__init__(784, 64, experts, k, factor)
        self.router = mlp(784, 64, experts)
        self.b1, self.b2 = nn.Parameter(torch.zeros(experts, 1, 64)), nn.Parameter(torch.zeros(experts, 1, 10))
        self.w2 = nn.Parameter(torch.randn(experts, 64, 10) / 8)
    def forward(self, x):
        weights, chosen, place, capacity = self.places(x)
        size = self.experts * capacity
        slot = torch.where(place < capacity, chosen * capacity + place, size)
        buffer = x.new_zeros(size + 1, 784).index_copy(0, slot.flatten(), x.repeat_interleave(self.k, 0))
        rows = buffer[:size].view(self.experts, capacity, 784)
        out = torch.baddbmm(self.b2, torch.relu(torch.baddbmm(self.b1, rows, self.w1)), self.w2).view(size, 10)
        out = torch.cat([out, out.new_zeros(1, 10)])
        return (out.index_select(0, slot.flatten()).view(*slot.shape, 10) * weights[..., None]).sum(1)

def classifier(style):
    name, _, factor = style.partition(' ')
    if name == 'scatter': return ScatterClassifier(float(factor))
    return mlp(784, 64, 10) if name == 'mlp' else Classifier(name)

# -- the language model: 4 layers, width 128, 4 heads, 8 experts of hidden width 256, top-2 --

class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
    def forward(self, x): return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weight

class GeluExpert(Expert):
    def forward(self, x): return self.down(F.gelu(self.up(x)))

class LossyLoop(SortedLoop):
    """With the balance loss of Switch and the router's z-loss, which DynaMoE's model has too."""
    def forward(self, x):
        logits = self.router(x)
        probs = torch.softmax(logits, -1)
        load = torch.bincount(torch.topk(probs, self.k)[1].flatten(), minlength=len(self.experts))
        share = load / (x.shape[0] * self.k)
        z = (torch.logsumexp(logits, -1) ** 2).mean()
        self.loss = 0.01 * len(self.experts) * (share * probs.mean(0)).sum() + 0.001 * z
        return super().forward(x)

class Block(nn.Module):
    def __init__(self, d, heads, time, experts, hidden):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, RMSNorm(d), RMSNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.moe = LossyLoop(d, experts, 2, lambda: GeluExpert(d, hidden))
        half = d // heads // 2
        angle = torch.arange(time)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.cos, self.sin = angle.cos(), angle.sin()
        self.mask = torch.full((time, time), -math.inf).triu(1)
    def turn(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)
    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.turn(q) @ self.turn(k).transpose(-1, -2) / math.sqrt(d // self.heads) + self.mask
        x = x + self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(n, t, d))
        return x + self.moe(self.norm2(x).view(n * t, d)).view(n, t, d)

class Language(nn.Module):
    def __init__(self, dModel=128, layers=4, heads=4, context=64, experts=8, hidden=256):
        super().__init__()
        d = dModel
        self.embedding, self.head, self.norm = nn.Embedding(256, d), nn.Linear(d, 256, bias=False), RMSNorm(d)
        self.blocks = nn.ModuleList(Block(d, heads, context, experts, hidden) for _ in range(layers))
    def forward(self, x):
        h = self.embedding(x)
        for block in self.blocks: h = block(h)
        return self.head(self.norm(h))
    def losses(self): return sum(block.moe.loss for block in self.blocks)

# -- steps --

def open_work(style, w):
    kind, train = w['kind'], w['pass'] == 'train'
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    if DEVICE != 'cpu': torch.set_default_device(DEVICE)
    if kind == 'layer':
        # ' bfloat16': parameters, input and everything computed are bfloat16.
        short = style.endswith(' bfloat16')
        if short: torch.set_default_dtype(torch.bfloat16)
        model = layer(style.removesuffix(' bfloat16'), w)
        x, y = torch.randn(w['tokens'], w['dModel'], requires_grad=train), torch.randn(w['tokens'], w['dModel'])
        # PyTorch 1.13 has no mse_loss for bfloat16 on CPUs.
        loss_of = lambda: (model(x) - y).square().mean() if short else F.mse_loss(model(x), y)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    elif kind == 'classifier':
        model = classifier(style)
        x, y = torch.randn(w['batch'], 784), torch.randint(10, (w['batch'],))
        loss_of = lambda: F.cross_entropy(model(x), y)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    else:
        model, time = Language(**w.get('lm', {})), w.get('lm', {}).get('context', 64)
        x, y = torch.randint(256, (w['batch'], time)), torch.randint(256, (w['batch'] * time,))
        loss_of = lambda: F.cross_entropy(model(x).view(-1, 256), y) + model.losses()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, foreach=True)
    def forward():
        with torch.no_grad(): return loss_of()
    def step():
        optimizer.zero_grad(set_to_none=True)
        if kind == 'layer': x.grad = None
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return step if train else forward

def main():
    step, start = None, 0
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if torch is None: answer = {'missing': f'PyTorch: {missing}; Debian has it as python3-torch'}
            elif request['do'] == 'open':
                torch.set_num_threads(request['threads'])
                torch.set_flush_denormal(True)
                torch.ones(256, 256) @ torch.ones(256, 256) # its libraries create their threads and buffers
                with open('/proc/self/clear_refs', 'w') as f: f.write('5')
                start = status('VmRSS')
                step = open_work(request['style'], request['work'])
                answer = {'version': f'PyTorch {torch.__version__}, {request["threads"]} threads' if DEVICE == 'cpu'
                          else f'PyTorch {torch.__version__}, {torch.cuda.get_device_name()}'}
            else:
                ms, loss, first = [], math.nan, time.perf_counter()
                for _ in range(request['steps']):
                    begin = time.perf_counter()
                    loss = step()
                    ms.append((time.perf_counter() - begin) * 1000)
                if DEVICE != 'cpu':
                    torch.cuda.synchronize()
                    ms = [(time.perf_counter() - first) * 1000 / len(ms)] * len(ms)
                answer = {'ms': ms, 'rss': status('VmHWM') - start, 'loss': float(loss)}
                if DEVICE != 'cpu': answer['rss'] = torch.cuda.max_memory_allocated()
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'}
        print(json.dumps(answer), flush=True)

main()
